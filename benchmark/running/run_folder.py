"""A run folder: start or continue it, and compute its result from its records. Needs no model and no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..core.documents import Manifest
from ..core.errors import KnbenchError
from ..core.files import write_json, write_text
from ..core.records import CheckpointLine, DriftLine, Record, to_json
from ..results.documents import first_difference, load_manifest, load_result, write_result
from ..results.io import (
    ANALYSIS,
    CHECKPOINT,
    CHECKPOINTS,
    DRIFT,
    DRIFT_LINE,
    MANIFEST,
    PARTS,
    RECORD,
    RECORDS,
    RESULT,
    JsonLinesFile,
    lines_text,
    read_json,
    read_lines,
    sha256_of,
)
from ..results.rescoring import RunLines, read_run_lines, score_lines
from ..results.runs import Run
from .owner import remove_owner, write_owner
from .plan import FileName

VOLATILE = ("environment", "editor.training_seconds")
"""Parts of a manifest that may differ when a run is continued."""
FLAGS = ("editor.trains", "editor.needs_subject")
"""Parts that manifests of earlier versions lack."""
DERIVED = ("editor.prepared", "task.content_hash", "task.cases_total")
"""Parts that follow from other parts. They are named only if nothing else differs."""


@dataclass(frozen=True)
class RunFiles:
    """The files that a run appends to.

    Attributes:
        records: one line per case.
        checkpoints: all cases so far, measured again; None unless the run is sequential.
        drift: drift measurements; None if drift is not measured.
    """

    records: JsonLinesFile[Record]
    checkpoints: JsonLinesFile[CheckpointLine] | None = None
    drift: JsonLinesFile[DriftLine] | None = None

    def file(self, name: FileName) -> JsonLinesFile[Any] | None:
        """Return a file by its name."""
        files: Mapping[FileName, JsonLinesFile[Any] | None] = {
            "records": self.records,
            "checkpoints": self.checkpoints,
            "drift": self.drift,
        }
        return files[name]

    def stored_records(self) -> list[Record]:
        """Return the records on disk."""
        return read_lines(self.records.path, RECORD)

    def drop_failed(self) -> None:
        """Remove the failed records, whose cases are then measured again, and the result that was computed with them.

        The result is removed first: without it, a folder whose records change is a run that continues.
        """
        if any(record.failure is not None for record in self.stored_records()):
            (self.records.path.parent / RESULT).unlink(missing_ok=True)
            self.records.drop(lambda record: record.failure is not None)


def open_folder(folder: Path, manifest: Manifest) -> RunFiles:
    """Start or continue a run folder.

    Raises:
        KnbenchError: the folder holds another run, or its files changed after its result was written; names the
            difference.
    """
    for incomplete in folder.glob(".*.tmp"):  # of a process that was killed while it wrote; the folder is locked
        incomplete.unlink()
    claim(folder, to_json(manifest))
    _check_unchanged(folder)  # before the files are opened, which repairs an incomplete last line
    return RunFiles(
        JsonLinesFile(folder / RECORDS, RECORD),
        JsonLinesFile(folder / CHECKPOINTS, CHECKPOINT) if manifest.protocol.regime == "sequential" else None,
        JsonLinesFile(folder / DRIFT, DRIFT_LINE) if manifest.protocol.drift else None,
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """``with locked(folder): ...`` excludes other processes. The lock ends with the process.

    Raises:
        KnbenchError: another process holds the lock.
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
        write_owner(folder)
        yield
    finally:
        remove_owner(folder)
        lock.release()


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest, or check that the existing one is equal.

    Args:
        folder: the folder.
        manifest: the manifest as JSON values.

    Raises:
        KnbenchError: the existing manifest is broken or differs, or the folder holds records without a manifest; names
            the difference.
    """
    path = folder / MANIFEST
    if not path.exists():
        # Nothing says under which settings these lines were measured.
        for name in (RECORDS, RESULT, CHECKPOINTS, DRIFT, PARTS, ANALYSIS):
            if (folder / name).exists() and (folder / name).stat().st_size:
                raise KnbenchError(f"{folder}: holds {name} and no {MANIFEST}; choose another --output, or delete it")
        write_json(path, manifest)
        return
    existing = read_json(path)
    if not isinstance(existing, Mapping):
        raise KnbenchError(f"{path}: not a manifest; choose another --output, or delete the folder")
    old, new = (_mapping(document.get("task")) for document in (existing, manifest))
    same = old.get("name") == new.get("name") and old.get("version") == new.get("version")
    if same and old.get("content_hash") != new.get("content_hash"):
        raise KnbenchError(
            f"{folder} holds another run: task '{new.get('name')}' changed its content and not its version "
            f"({new.get('version')}); raise the version, and choose another --output"
        )
    differences = [
        f"{place}: {_short(old)} there, {_short(new)} now"
        for place, old, new in sorted(_differences(existing, manifest), key=lambda d: d[0].startswith(DERIVED))
        if not place.startswith(VOLATILE) and not (place in FLAGS and old is None)
    ]
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise KnbenchError(
            f"{folder} holds another run ({differences[0]}{more}); choose another --output, or delete it"
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        return found
    same = list(old) == list(new) if isinstance(old, list | tuple) and isinstance(new, list | tuple) else old == new
    return [] if same else [(place, old, new)]


def _check_unchanged(folder: Path) -> None:
    """Check that the files of a finished run are those that its result was computed from.

    Raises:
        KnbenchError: the result is broken, or a file is missing or changed; names the file.
    """
    if not (folder / RESULT).exists():
        return
    result = load_result(folder / RESULT)
    scored = {RECORDS: result.records, CHECKPOINTS: result.checkpoints, DRIFT: result.drift}
    for name, info in scored.items():
        if info is not None:
            check_hash(folder / name, info.sha256, RESULT)


def check_hash(path: Path, sha256: str, written: str) -> None:
    """Check that a file of a finished folder is the one that another file was computed from.

    Args:
        path: the file.
        sha256: its hash when the other file was computed.
        written: name of the other file, for the message.

    Raises:
        KnbenchError: the file is missing or has another hash.
    """
    if not path.exists() or sha256_of(path) != sha256:
        change = "changed" if path.exists() else "was removed"
        raise KnbenchError(
            f"{path}: {change} after {written} was written; restore it from a copy, or delete {path.parent} to run it "
            "again"
        )


def finish(folder: Path) -> Run:
    """Sort the lines of a complete run folder, compute its result, write it, and return the run.

    An existing result is compared with the records and not replaced.

    Raises:
        KnbenchError: a file is missing or broken, records are missing, or the existing result differs from the records.
    """
    manifest, path = load_manifest(folder / MANIFEST), folder / RESULT
    lines = read_run_lines(manifest, lambda name: folder / name)
    if not path.exists():
        result = score_lines(manifest, _sort(lines))
        write_result(folder, result)
        return Run(folder, result)
    stored = load_result(path)
    pointer = first_difference(stored, score_lines(manifest, lines))
    if pointer is not None:
        raise KnbenchError(
            f"{path}: {pointer} differs from the value computed from the records; run: knbench score {folder} --write"
        )
    return Run(folder, stored)


def _sort(lines: RunLines) -> RunLines:
    """Return lines sorted by case and by the time of measurement; rewrite files whose order differs.

    Several workers write lines in the order in which they measure them.
    """
    index = {record.case_id: record.index for record in lines.records}

    def drift_order(line: DriftLine) -> tuple[int, int]:  # the unedited model, with edits 0, is first
        position = index.get(line.case_id or "", -1) if line.block is None else line.block
        return line.edits or 0, position

    records = sorted(lines.records, key=lambda record: record.index)
    drift = None if lines.drift is None else sorted(lines.drift, key=drift_order)
    sha256 = dict(lines.sha256)
    for name, before, after in ((RECORDS, lines.records, records), (DRIFT, lines.drift, drift)):
        if before != after and after is not None:
            text = lines_text(after)
            write_text(lines.folder / name, text)
            sha256[name] = hashlib.sha256(text.encode()).hexdigest()
    return replace(lines, records=records, drift=drift, sha256=sha256)
