"""The results store: ``results/{method}/{model}/{revision}/{task}.json``, with the compressed records beside it.

A stored result is the run's own. Folders of local paths, which runs of earlier versions contain, are removed. Nothing
in a store is overwritten with different content.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.documents import Result
from ..core.errors import KnbenchError
from ..core.files import json_text, write_bytes, write_json
from ..core.printable import forbidden_character, printable
from ..core.records import to_json
from .documents import first_difference, load_result, manifest_of
from .io import CHECKPOINTS, DRIFT, MANIFEST, RECORDS, RESULT, read_bytes, read_json
from .json_schema import check
from .layout import CARD, STATUS, find_stores, location_of, method_name_flaw, part_name_flaw, slug
from .method_names import describe_differences, differing_settings
from .publication import public_lines, public_run, with_hashes
from .runs import Run

CARD_BYTES = 1 << 16
STATUS_BYTES = 1 << 24


def refusal(result: Result) -> str | None:
    """Return why a result cannot be stored, or None: only complete runs on test cases are published."""
    flaw = method_name_flaw(result.editor.name)
    if flaw is not None:
        return f"the name of method '{printable(result.editor.name)}' {flaw}; rename the method and run it again"
    folder, name = location_of(result)
    for part in (*folder.parts[1:], f"{name}.{CHECKPOINTS}.gz"):
        flaw = part_name_flaw(part)
        if flaw is not None:
            return f"'{printable(part)}' cannot be a name in a store: {flaw}; rename the model or the task"
    if result.protocol.limit is not None and result.protocol.subset != "lite":
        return f"the run is limited to {result.protocol.limit} cases; run it without --limit, or with --subset lite"
    if result.protocol.split != "test":
        return f"the run has the cases of split '{result.protocol.split}'; run it with --split test"
    return None


def store_run(run: Run, root: Path) -> Path:
    """Copy a finished run into a store, in its public form. Does nothing if the store has it already.

    Returns:
        The path of the stored result.

    Raises:
        KnbenchError: the run is limited or not on test cases, or the store has a different result there.
    """
    reason = refusal(run.result)
    if reason is not None:
        raise KnbenchError(f"{run.folder}: {reason}")
    files = {file: public_lines(read_bytes(run.path(file))) for file in _files(run.result)}
    result = with_hashes(public_run(run).result, files)
    folder, name = location_of(result)
    path = root / folder / f"{name}.json"
    text = json_text(to_json(result))
    if path.exists():
        if first_difference(load_result(path), result) is None:  # the same records, scored on another processor
            return path
        different = differing_settings([load_result(path), result])
        detail = f" with other settings ({describe_differences(different)})" if different else ""
        raise KnbenchError(
            f"{path} is another result of the same method, model and task{detail}; results are never replaced"
        )
    for file, data in files.items():  # the result is written last: if it exists, so do its records
        write_bytes(root / folder / f"{name}.{file}.gz", gzip.compress(data, mtime=0))
    write_bytes(path, text.encode())
    return path


def unpack_run(run: Run, root: Path) -> bool:
    """Restore the run folder of a stored result, and return whether it was written.

    The folder is ``root/{model}/{editor}/{task}``, with the subset and regime of the stored name appended to the model.
    An existing folder is kept. The manifest is written first, so that an interrupted restoration is a
    stopped run, which continues.
    """
    result = run.result
    task = slug(result.task.name)
    settings = slug(result.model.name) + location_of(result)[1].removeprefix(task)
    folder = root / settings / slug(result.editor.name) / task
    if (folder / MANIFEST).exists():
        return False
    write_json(folder / MANIFEST, to_json(manifest_of(result)))
    for file in _files(result):
        write_bytes(folder / file, read_bytes(run.path(file)))
    write_json(folder / RESULT, to_json(result))
    return True


def store_card(card: Path, method: str, root: Path) -> Path:
    """Copy a method's card into a store.

    Raises:
        KnbenchError: the card cannot be read, is empty or too large, or differs from the one in the store.
    """
    text = read_card(card)
    path = root / slug(method) / CARD
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise KnbenchError(f"{path} holds another card of '{method}'; edit it there, or omit --card")
    write_bytes(path, text.encode())
    return path


def read_card(path: Path) -> str:
    """Return the Markdown of a card.

    Raises:
        KnbenchError: the file cannot be read, is empty, exceeds :data:`CARD_BYTES`, or has control characters.
    """
    try:
        if path.stat().st_size > CARD_BYTES:
            raise KnbenchError(f"{path}: {path.stat().st_size >> 10} kB; a card has at most {CARD_BYTES >> 10} kB")
        text = path.read_bytes().decode().replace("\r\n", "\n")
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file; write a card in Markdown that describes the method") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KnbenchError(f"{path}: {error}") from None
    if not text.strip():
        raise KnbenchError(f"{path}: the card is empty; describe the method in Markdown")
    flaw = forbidden_character(text)
    if flaw is not None:
        raise KnbenchError(f"{path}: the card has the control or bidirectional character {flaw}; remove it")
    return text


def read_reported(path: Path) -> Mapping[str, Any]:
    """Return the numbers that a paper reports for a method.

    Raises:
        KnbenchError: the file cannot be read, is too large or invalid, or is in the folder of another method.
    """
    document: Mapping[str, Any] = read_json(path, CARD_BYTES)
    check(document, "reported", str(path))
    if document["method"] != path.resolve().parent.name:
        raise KnbenchError(f"{path}: /method is '{document['method']}'; it belongs in the folder of that method")
    return document


def stored_names(result: Result) -> Sequence[str]:
    """Return the names of the files of a stored result."""
    _, name = location_of(result)
    return [f"{name}.json", *(f"{name}.{file}.gz" for file in _files(result))]


def _files(result: Result) -> list[str]:
    return [RECORDS, *([CHECKPOINTS] if result.checkpoints else []), *([DRIFT] if result.drift else [])]


def read_status(roots: Sequence[Path]) -> dict[Path, Mapping[str, Any]]:
    """Return the status of stored results, by the path of the result. Only the file in a store's top folder counts.

    Raises:
        KnbenchError: a status file is broken.
    """
    found: dict[Path, Mapping[str, Any]] = {}
    for path in sorted(path for root in roots for store in find_stores(root) for path in store.status):
        for name, note in read_status_file(path)["results"].items():
            found[(path.parent / name).resolve()] = note
    return found


def read_status_file(path: Path) -> Mapping[str, Any]:
    """Return the content of a status file.

    Raises:
        KnbenchError: the file is broken or too large.
    """
    document: Mapping[str, Any] = read_json(path, STATUS_BYTES)
    check(document, "status", str(path))
    return document


def write_status(root: Path, runs: Sequence[Run]) -> None:
    """Write which results of a store are valid. A result that was verified keeps its level while it is unchanged.

    Args:
        root: the store.
        runs: its valid results.
    """
    earlier = read_status([root])
    notes = {}
    for run in sorted(runs, key=lambda run: run.result_path):
        digest = hashlib.sha256(run.result_path.read_bytes()).hexdigest()
        before = earlier.get(run.result_path.resolve(), {})
        kept = before if before.get("sha256") == digest else {}
        again = bool(kept.get("rerun"))
        note = {"sha256": digest, "rerun": again}
        if not again and "spot_checked" in kept:
            note["spot_checked"] = kept["spot_checked"]
        notes[run.result_path.relative_to(root).as_posix()] = note
    write_json(root / STATUS, {"schema_version": 1, "results": notes})
