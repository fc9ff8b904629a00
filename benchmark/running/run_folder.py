"""A run's folder: start it or continue it, and compute its result from its records. Needs no model and no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..core.errors import KnbenchError
from ..core.files import write_json, write_text
from ..results.documents import write_result
from ..results.io import (
    CHECKPOINTS,
    DRIFT,
    MANIFEST,
    RECORDS,
    RESULT,
    RecordsFile,
    read_json,
    read_records,
)
from ..results.rescoring import rescore

VOLATILE = ("environment",)
"""Parts of a manifest that may differ when a run is continued."""
DERIVED = ("editor.prepared", "task.content_hash", "task.cases_total")
"""What follows from other differences, and is named only where there are no others."""


@dataclass(frozen=True)
class RunFiles:
    """The files that a run appends to.

    Attributes:
        records: one line per case.
        checkpoints: of sequential edits, all cases so far measured again; None in other regimes.
        drift: what no edit is about; None where it is not measured.
    """

    records: RecordsFile
    checkpoints: RecordsFile | None = None
    drift: RecordsFile | None = None

    def stored_records(self) -> dict[str, dict[str, Any]]:
        """Return the records on disk by case id."""
        return {record["case_id"]: record for record in read_records(self.records.path)}


def open_folder(folder: Path, manifest: Mapping[str, Any]) -> RunFiles:
    """Start or continue a run folder.

    Raises:
        KnbenchError: it holds another run; names what differs.
    """
    for torn in folder.glob(".*.tmp"):  # of a process that was killed while it wrote; the folder is locked now
        torn.unlink()
    claim(folder, manifest)
    protocol = manifest["protocol"]
    return RunFiles(
        RecordsFile(folder / RECORDS),
        RecordsFile(folder / CHECKPOINTS, "checkpoint") if protocol["regime"] == "sequential" else None,
        RecordsFile(folder / DRIFT, "drift") if protocol.get("drift") else None,
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """``with locked(folder): ...`` keeps other processes out; a process that dies lets its folder go.

    Raises:
        KnbenchError: a living process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise KnbenchError(
            f"{folder} is being written by another process; wait for it, or choose another --output"
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest, or make sure that the one that is there says the same.

    Raises:
        KnbenchError: it says something else; names what differs.
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
    """Put a folder's complete records in order, and compute and write its result."""
    _put_in_order(folder)
    result = rescore(folder)
    if not (folder / RESULT).exists() or read_json(folder / RESULT) != result:
        write_result(folder, result)
    return result


def _put_in_order(folder: Path) -> None:
    """Sort records by case, and drift by what it was measured after: several workers give them as they come."""
    records = read_records(folder / RECORDS)
    _rewrite(folder / RECORDS, records, sorted(records, key=lambda record: record["index"]))
    if (folder / DRIFT).exists():
        index = {record["case_id"]: record["index"] for record in records}
        lines = read_records(folder / DRIFT, "drift")

        def place(line: Mapping[str, Any]) -> tuple[int, int]:  # the unedited model, with edits 0, comes first
            return line.get("edits", 0), line.get("block", index.get(line.get("case_id", ""), -1))

        _rewrite(folder / DRIFT, lines, sorted(lines, key=place))


def _rewrite(path: Path, rows: Sequence[Mapping[str, Any]], ordered: Sequence[Mapping[str, Any]]) -> None:
    if rows != ordered:
        write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in ordered))
