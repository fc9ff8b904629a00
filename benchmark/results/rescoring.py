"""Computes a result from its manifest and its files of JSON lines, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..core.documents import Manifest, Result
from ..core.errors import KnbenchError
from ..core.files import gc_paused
from ..core.records import CheckpointLine, DriftLine, Record
from ..scoring.checkpoints import at_checkpoint
from ..scoring.summary import in_order, result_from, summarise_drift
from .documents import check_result
from .io import CHECKPOINT, CHECKPOINTS, DRIFT, DRIFT_LINE, RECORD, RECORDS, LineKind, LineT, read_hashed_lines


@dataclass(frozen=True)
class RunLines:
    """The content of a run's files of JSON lines, each read once.

    Attributes:
        folder: folder of the files, for messages.
        records: the records, in the order of the file.
        checkpoints: the checkpoint lines; None unless the run is sequential.
        drift: the drift lines; None if drift is not measured.
        sha256: hash of each file by its name.
    """

    folder: Path
    records: Sequence[Record]
    checkpoints: Sequence[CheckpointLine] | None
    drift: Sequence[DriftLine] | None
    sha256: dict[str, str]

    def final_records(self) -> list[Record]:
        """Return the records in the order of their cases; of a sequential run, with the last observations."""
        records = in_order(self.records)
        if not self.checkpoints:
            return records
        edits = max(line.edits for line in self.checkpoints)
        last = {line.case_id: line for line in self.checkpoints if line.edits == edits}
        return [at_checkpoint(record, last[record.case_id]) for record in records]


def read_run_lines(manifest: Manifest, path_of: Callable[[str], Path]) -> RunLines:
    """Read the files of a run.

    Args:
        manifest: the run's manifest, which says which files there are.
        path_of: returns the path of a file by its name.

    Raises:
        KnbenchError: a file is missing or broken.
    """
    sha256: dict[str, str] = {}

    def read(name: str, kind: LineKind[LineT]) -> list[LineT]:
        lines, sha256[name] = read_hashed_lines(path_of(name), kind)
        return lines

    with gc_paused():
        records = read(RECORDS, RECORD)
        checkpoints = read(CHECKPOINTS, CHECKPOINT) if manifest.protocol.regime == "sequential" else None
        drift = read(DRIFT, DRIFT_LINE) if manifest.protocol.drift else None
    return RunLines(path_of(RECORDS).parent, records, checkpoints, drift, sha256)


def score_lines(manifest: Manifest, lines: RunLines) -> Result:
    """Compute a result.

    Raises:
        KnbenchError: lines are missing or do not belong to the run.
    """
    _check_complete(lines, manifest.protocol.cases)
    if lines.checkpoints is not None:
        _check_checkpoints(lines, lines.checkpoints, manifest.protocol.checkpoints)
    drift = lines.drift and summarise_drift(lines.drift, str(lines.folder / DRIFT), lines.sha256[DRIFT])
    try:
        result = result_from(
            manifest,
            lines.records,
            lines.sha256[RECORDS],
            checkpoints=None if lines.checkpoints is None else (lines.checkpoints, lines.sha256[CHECKPOINTS]),
            drift=drift or None,
        )
    except KnbenchError as error:
        raise KnbenchError(f"{lines.folder / RECORDS}: {error}") from None
    check_result(result, str(lines.folder))
    return result


def score_files(manifest: Manifest, path_of: Callable[[str], Path]) -> Result:
    """Read the files of a run and compute its result.

    Raises:
        KnbenchError: a file is missing or broken, or lines are missing.
    """
    return score_lines(manifest, read_run_lines(manifest, path_of))


def _check_complete(lines: RunLines, expected: int) -> None:
    """Check that there is exactly one record for each case.

    Raises:
        KnbenchError: a record is missing, or two have the same index.
    """
    path = lines.folder / RECORDS
    case_ids: dict[int, str] = {}
    for record in lines.records:
        other = case_ids.setdefault(record.index, record.case_id)
        if other != record.case_id:
            raise KnbenchError(f"{path}: cases '{other}' and '{record.case_id}' both have index {record.index}")
    missing = expected - sum(index < expected for index in case_ids)  # the number of cases is a claim of the manifest
    if missing:
        first = next(index for index in range(expected) if index not in case_ids)
        which = f"index {first}" + (f" and {missing - 1} more" if missing > 1 else "")
        raise KnbenchError(
            f"{path}: {len(lines.records)} of {expected} cases ({which} missing); start the run again to continue it"
        )
    beyond = sorted(index for index in case_ids if index >= expected)
    if beyond:
        raise KnbenchError(f"{path}: case '{case_ids[beyond[0]]}' has index {beyond[0]}; the run has {expected} cases")


def _check_checkpoints(lines: RunLines, checkpoints: Sequence[CheckpointLine], stops: Sequence[int]) -> None:
    """Check that every case up to a checkpoint was measured there.

    Raises:
        KnbenchError: a line is missing or does not belong to the run.
    """
    path = lines.folder / CHECKPOINTS
    position = {record.case_id: number for number, record in enumerate(in_order(lines.records))}
    known = set(stops)
    for line in checkpoints:
        if line.edits not in known or position.get(line.case_id, line.edits) >= line.edits:
            _refuse(path, line.edits, line.case_id, "not part of this run")
    if len(checkpoints) == sum(min(stop, len(position)) for stop in stops):
        return
    found = {(line.edits, line.case_id) for line in checkpoints}
    for stop in stops:
        for case_id, number in position.items():
            if number < stop and (stop, case_id) not in found:
                _refuse(path, stop, case_id, "missing")


def _refuse(path: Path, edits: int, case_id: str, problem: str) -> NoReturn:
    raise KnbenchError(f"{path}: case '{case_id}' after {edits} edits is {problem}; start the run again to continue it")
