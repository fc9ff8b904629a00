"""A run's folder: start it or continue it, and compute its result from its records. Needs no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import KnbenchError
from .files import write_json
from .results import (
    MANIFEST,
    RECORDS,
    RESULT,
    RecordsFile,
    check,
    read_json,
    read_records,
    sha256_of,
    write_result,
)
from .scoring import result_from

VOLATILE = ("environment",)
"""Parts of a manifest that may differ when a run is continued."""
DERIVED = ("editor.prepared", "task.content_hash", "task.cases_total")
"""What follows from other differences, and is named only where there are no others."""


def open_folder(folder: Path, manifest: Mapping[str, Any]) -> RecordsFile:
    """Start or continue a run folder.

    Raises:
        KnbenchError: it holds another run; names what differs.
    """
    path = folder / MANIFEST
    if path.exists():
        other = read_json(path)
        was, now = other.get("task", {}), manifest.get("task", {})
        same = was.get("name") == now.get("name") and was.get("version") == now.get("version")
        if same and was.get("content_hash") != now.get("content_hash"):
            raise KnbenchError(
                f"{folder} holds another run: task '{now.get('name')}' changed its content and not its version "
                f"({now.get('version')}); raise the version, and choose another --output"
            )
        differing = [
            f"{place}: {_short(was)} there, {_short(now)} now"
            for place, was, now in sorted(_differences(other, manifest), key=lambda d: d[0].startswith(DERIVED))
            if place.split(".")[0] not in VOLATILE
        ]
        if differing:
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise KnbenchError(
                f"{folder} holds another run ({differing[0]}{more}); choose another --output, or delete it"
            )
    else:
        write_json(path, manifest)
    return RecordsFile(folder / RECORDS)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _differences(was: Any, now: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*was, *now}):
            found += _differences(was.get(key), now.get(key), f"{place}.{key}" if place else key)
        return found
    same = list(was) == list(now) if isinstance(was, list | tuple) and isinstance(now, list | tuple) else was == now
    return [] if same else [(place, was, now)]


def finish(folder: Path) -> Mapping[str, Any]:
    """Compute and write the result of a folder whose records are complete."""
    result = rescore(folder)
    if not (folder / RESULT).exists() or read_json(folder / RESULT) != result:
        write_result(folder, result)
    return result


def rescore(folder: Path) -> dict[str, Any]:
    """Compute a folder's result from its manifest and records, without a model.

    Raises:
        KnbenchError: a file is missing or broken, or records are missing.
    """
    manifest = read_json(folder / MANIFEST)
    records = read_records(folder / RECORDS)
    expected = manifest["protocol"]["cases"]
    if len(records) != expected:
        raise KnbenchError(
            f"{folder / RECORDS}: {len(records)} of {expected} cases; start the run again to continue it"
        )
    result = result_from(manifest, records, sha256_of(folder / RECORDS))
    check(result, "result", str(folder))
    return result
