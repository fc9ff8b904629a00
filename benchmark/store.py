"""The results that a board is built from: ``results/{method}/{model}/{revision}/{task}.json``, records packed beside.

A stored result is the run's own, to the byte; nothing that is there is ever overwritten by something else.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import KnbenchError
from .files import json_text, write_bytes
from .results import CHECKPOINTS, DRIFT, RECORDS, Run, read_bytes
from .scoring import COMPUTED

CARD = "card.md"
CARD_BYTES = 1 << 16


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
        if path.read_text(encoding="utf-8") == text:
            return path
        raise KnbenchError(f"{path} is another result of the same method, model and task; results are never replaced")
    for file in _files(run.result):  # the result comes last: where it stands, its records do
        packed = gzip.compress(read_bytes(run.path(file)), mtime=0)
        write_bytes(root / folder / f"{name}.{file}.gz", packed)
    write_bytes(path, text.encode())
    return path


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


def manifest_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a result was settled before the run: everything that its records do not give."""
    return {key: value for key, value in result.items() if key not in COMPUTED}


def stored_names(result: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the files that belong to a stored result."""
    _, name = place_of(result)
    return [f"{name}.json", *(f"{name}.{file}.gz" for file in _files(result))]


def _files(result: Mapping[str, Any]) -> list[str]:
    return [RECORDS, *([CHECKPOINTS] if "checkpoints" in result else []), *([DRIFT] if "drift" in result else [])]
