"""The results that a board is built from: ``results/{method}/{model}/{revision}/{task}.json``, records packed beside.

A stored result is the run's own, to the byte; nothing that is there is ever overwritten by something else.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..core.files import json_text, write_bytes, write_json
from .documents import differing, manifest_of
from .io import CHECKPOINTS, DRIFT, MANIFEST, RECORDS, RESULT, read_bytes, read_json
from .json_schema import check
from .runs import Run

CARD = "card.md"
CARD_BYTES = 1 << 16
REPORTED = "reported.json"
"""What a paper reports of a method, in its folder of a store."""
STATUS = "status.json"
"""Which stored results were scored again, or run again, in the folder above all methods."""
BADGES: Mapping[str, str] = {
    "re-scored": "Computed again from its raw records, with everything that validation looks for.",
    "re-run": "Run again by the maintainers, with the same verdicts on the same probes.",
    "not re-scored": "Stored, and not yet validated here.",
    "reported only": "Published by a paper and not measured here; stands apart and is not ranked.",
}
"""What the marks of a row say."""


def slug(text: str) -> str:
    """Return a file name that is safe anywhere.

    >>> slug("../Org/My Model")
    'org-my-model'
    """
    return re.sub(r"[^a-z0-9._]+", "-", text.casefold()).strip("-.") or "unnamed"


def place_of(result: Mapping[str, Any]) -> tuple[Path, str]:
    """Return where a result belongs in a store, and its name there.

    A model without a revision is called by its weights. The lite subset, edits in batches and sequential ones have
    names of their own.
    """
    model, protocol = result["model"], result["protocol"]
    revision = model["revision"] or f"weights-{model['weight_hash'][:12]}"
    folder = Path(slug(result["editor"]["name"])) / slug(model["name"]) / slug(revision)
    suffix = {
        "single": "",
        "batch": f".batch-{protocol.get('batch_edits')}",
        "sequential": f".sequential-{protocol['cases']}",
    }[protocol["regime"]]
    subset = ".lite" if protocol.get("subset") == "lite" else ""
    return folder, slug(result["task"]["name"]) + subset + suffix


def store_run(run: Run, root: Path) -> Path:
    """Copy a finished run into a store; does nothing where it is there already.

    Returns:
        The path of the stored result.

    Raises:
        KnbenchError: another result is there.
    """
    folder, name = place_of(run.result)
    path = root / folder / f"{name}.json"
    text = json_text(run.result)
    if path.exists():
        if differing(read_json(path), run.result) is None:  # the same records, scored on another processor
            return path
        raise KnbenchError(f"{path} is another result of the same method, model and task; results are never replaced")
    for file in _files(run.result):  # the result comes last: where it stands, its records do
        packed = gzip.compress(read_bytes(run.path(file)), mtime=0)
        write_bytes(root / folder / f"{name}.{file}.gz", packed)
    write_bytes(path, text.encode())
    return path


def unpack_run(run: Run, root: Path) -> bool:
    """Lay a stored result out as the run folder that it came from; returns whether it was not there yet.

    It becomes ``root/{model}/{editor}/{task}``, the model with the subset and regime behind it where they are named.
    The manifest is written first: what has been laid out in part is a run that was stopped, and goes on.
    """
    result = run.result
    task = slug(result["task"]["name"])
    way = slug(result["model"]["name"]) + place_of(result)[1].removeprefix(task)
    folder = root / way / slug(result["editor"]["name"]) / task
    if (folder / MANIFEST).exists():
        return False
    write_json(folder / MANIFEST, manifest_of(result))
    for file in _files(result):
        write_bytes(folder / file, read_bytes(run.path(file)))
    write_json(folder / RESULT, result)
    return True


def store_card(card: Path, method: str, root: Path) -> Path:
    """Copy a method's card into a store.

    Raises:
        KnbenchError: it cannot be read, is empty or too large, or another card is there.
    """
    text = read_card(card)
    path = root / slug(method) / CARD
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise KnbenchError(f"{path} is another card of '{method}'; change it there, or leave out --card")
    write_bytes(path, text.encode())
    return path


def read_card(path: Path) -> str:
    """Return a card's Markdown.

    Raises:
        KnbenchError: it cannot be read, is empty or too large.
    """
    try:
        if path.stat().st_size > CARD_BYTES:
            raise KnbenchError(
                f"{path}: a card may have {CARD_BYTES >> 10} kB, this one has {path.stat().st_size >> 10}"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file; a card says in Markdown what the method does") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KnbenchError(f"{path}: {error}") from None
    if not text.strip():
        raise KnbenchError(f"{path}: the card is empty; say in Markdown what the method does")
    return text


def stored_names(result: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the files that belong to a stored result."""
    _, name = place_of(result)
    return [f"{name}.json", *(f"{name}.{file}.gz" for file in _files(result))]


def _files(result: Mapping[str, Any]) -> list[str]:
    return [RECORDS, *([CHECKPOINTS] if "checkpoints" in result else []), *([DRIFT] if "drift" in result else [])]


# --- status ------------------------------------------------------------------------------------------------------


def read_status(roots: Sequence[Path]) -> dict[Path, Mapping[str, Any]]:
    """Return what is noted of stored results, by the path of the result.

    Raises:
        KnbenchError: a note is broken.
    """
    found: dict[Path, Mapping[str, Any]] = {}
    for path in sorted(path for root in roots for path in root.rglob(STATUS)):
        document = read_json(path)
        check(document, "status", str(path))
        for name, note in document["results"].items():
            found[(path.parent / name).resolve()] = note
    return found


def write_status(root: Path, runs: Sequence[Run], rerun: Collection[Path]) -> None:
    """Note which results of a store were scored again just now; what was once run again stays so while it is the same.

    Args:
        root: the store.
        runs: its results that are good.
        rerun: of these, the paths of those that another run agrees with.
    """
    earlier = read_status([root])
    notes = {}
    for run in sorted(runs, key=lambda run: run.where):
        digest = hashlib.sha256(run.where.read_bytes()).hexdigest()
        before = earlier.get(run.where.resolve(), {})
        again = run.where in rerun or (before.get("sha256") == digest and bool(before.get("rerun")))
        notes[run.where.relative_to(root).as_posix()] = {"sha256": digest, "rerun": again}
    write_json(root / STATUS, {"schema_version": 1, "results": notes})


def badges_of(run: Run, status: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Return the marks of a stored result; a run folder of one's own has none."""
    if not run.stem:
        return []
    note = status.get(run.where.resolve(), {})
    if note.get("sha256") != hashlib.sha256(run.where.read_bytes()).hexdigest():
        return ["not re-scored"]
    return ["re-scored", *(["re-run"] if note["rerun"] else [])]
