"""The writing side of a run: which units remain, and where each measured line is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.records import Failure, Record
from ..core.settings import RunSettings
from .events import EventLog
from .plan import (
    CasesStarted,
    Completed,
    EditState,
    LinesWithdrawn,
    OutputLine,
    Plan,
    RunKey,
    Unit,
    WorkItem,
    covered_blocks,
    units_of,
)
from .run_folder import RunFiles
from .shards import Shard


class RunWriter:
    """Tracks what a run has measured, and writes each measured line once.

    Args:
        plan: the run.
        files: the open files of each run folder.
        settings: settings of the run.
        events: its event log.
        reporter: receives progress.
        finish: called with each run folder whose units are all measured.
        fail_on_error: largest share (below 1) or number (from 1) of failed cases of a run folder; None sets no limit.
        shard: the part of the run to measure; None measures all of it.

    Raises:
        KnbenchError: a run folder holds records of other cases than the plan, or its result differs from its records.

    Attributes:
        remaining: units that are not measured yet, in the order in which to start them.
        cases: number of cases in the run.
        done: number of cases that were recorded before.
    """

    def __init__(
        self,
        plan: Plan,
        files: Mapping[RunKey, RunFiles],
        settings: RunSettings,
        events: EventLog,
        reporter: Reporter,
        finish: Callable[[RunKey], object],
        fail_on_error: float | None = None,
        shard: Shard | None = None,
    ) -> None:
        _check_cases(plan, files)
        self._plan, self._files, self._settings, self._finish = plan, files, settings, finish
        self.events, self.reporter, self._fail_on_error = events, reporter, fail_on_error
        units = units_of(plan, settings)
        if shard is not None:
            units = shard.of(units)
        self.remaining = [unit for unit in units if not self._is_complete(unit)]
        self._open = Counter(unit.run for unit in self.remaining)
        self.cases = sum(len(unit.indices) for unit in units)
        self.done = sum(self._count(unit) for unit in units)
        self._failed: Counter[RunKey] = Counter()
        if fail_on_error is not None:
            for run, opened in files.items():
                self._failed[run] = sum(record.failure is not None for record in opened.stored_records())
        reporter.begin(self.cases)
        reporter.advance(self.done)
        for run in files:
            if not self._open[run]:
                finish(run)

    def start(
        self, unit: Unit, worker: int = 0, *, lost: Mapping[str, Failure] | None = None, alone: bool = False
    ) -> WorkItem:
        """Return the work item of a unit.

        Args:
            unit: the unit.
            worker: number of the worker that measures it.
            lost: see :attr:`WorkItem.lost`.
            alone: see :attr:`WorkItem.alone`.
        """
        self.events.note("unit_started", worker=worker, **_fields(unit), cases=len(unit.indices))
        ids = self._plan.cases[unit.task]
        case_ids = {index: ids[index] for index in covered_blocks(unit.indices, len(ids))}
        return WorkItem(unit, case_ids, self._completed(unit), self._plan.digests[unit.editor], lost or {}, alone)

    def write(self, unit: Unit, output: OutputLine | CasesStarted | LinesWithdrawn, worker: int = 0) -> None:
        """Write a line, unless it exists, or remove withdrawn lines. The start of cases is not written.

        Raises:
            KnbenchError: more cases failed than ``fail_on_error`` allows.
            OSError: the line cannot be written.
        """
        if isinstance(output, CasesStarted):
            return
        files = self._files[unit.run]
        if isinstance(output, LinesWithdrawn):
            for name, keys in output.keys.items():
                if keys and (stored := files.file(name)) is not None:
                    stored.drop_keys(keys)
            return
        file = files.file(output.file)
        if file is None or file.kind.key_of(output.line) in file.keys:
            return
        file.append(output.line)
        if isinstance(output.line, Record):
            self.reporter.advance()
            self._note_case(unit, output.line, worker)
            if output.line.failure is not None:
                self._check_failures(unit, output.line.failure)

    def _check_failures(self, unit: Unit, failure: Failure) -> None:
        """Count a failed case and check the limit."""
        self._failed[unit.run] += 1
        limit, failed, cases = self._fail_on_error, self._failed[unit.run], len(self._plan.cases[unit.task])
        if limit is not None and failed > (limit if limit >= 1 else limit * cases):
            raise KnbenchError(
                f"{unit.editor} on {unit.task}: {failed} of {cases} cases failed, more than --fail-on-error {limit:g} "
                f"allows; the last one: {failure.type}: {failure.message}; finished cases are saved"
            )

    def _note_case(self, unit: Unit, record: Record, worker: int) -> None:
        about: dict[str, Any] = {
            "editor": unit.editor,
            "task": unit.task,
            "case_id": record.case_id,
            "worker": worker,
            "edit_seconds": record.timings.edit_seconds,
            "probe_seconds": record.timings.probe_seconds,
        }
        if record.failure:
            failure = {"phase": record.failure.phase, "type": record.failure.type, "message": record.failure.message}
            self.events.note("case_failed", **about, failure=failure)
        else:
            self.events.note("case_done", **about)

    @property
    def divisible(self) -> bool:
        """Whether each case has an edit of its own, which can be computed alone."""
        return self._settings.regime == "single"

    def complete(self, unit: Unit, worker: int = 0) -> None:
        """Mark a unit as measured. The last unit of a run folder finishes the folder."""
        self.events.note("unit_finished", worker=worker, **_fields(unit))
        self.remaining.remove(unit)
        self._open[unit.run] -= 1
        if not self._open[unit.run]:
            self._finish(unit.run)

    def _ids(self, unit: Unit) -> list[str]:
        return list(self._plan.cases[unit.task][unit.first : unit.end])

    def _count(self, unit: Unit) -> int:
        recorded = self._files[unit.run].records.keys
        return sum(case_id in recorded for case_id in self._ids(unit))

    def _is_complete(self, unit: Unit) -> bool:
        files, ids, stops = self._files[unit.run], self._ids(unit), self._settings.resolved_checkpoints
        checkpoints, drift = files.checkpoints, files.drift
        unedited = (0,) if unit.first == 0 else ()
        return (
            self._count(unit) == len(ids)
            and (checkpoints is None or all(checkpoints.has(edits=k, case_id=i) for k in stops for i in ids[:k]))
            and (drift is None or all(drift.has(edits=k) for k in (*unedited, *stops)))
        )

    def _completed(self, unit: Unit) -> Completed:
        files, ids = self._files[unit.run], set(self._ids(unit))
        if not self._settings.sequential:
            # Keys of drift lines are edits, case and block. Only those of the unit's own cases are needed.
            drift = {key for key in files.drift.keys if key[1] is None or key[1] in ids} if files.drift else ()
            return Completed({"records": ids & files.records.keys, "drift": drift})
        states = {
            record.case_id: EditState(record.failure is not None, record.edit.state)
            for record in files.stored_records()
        }
        checkpoints, drift = (file.keys if file else () for file in (files.checkpoints, files.drift))
        return Completed({"records": files.records.keys, "checkpoints": checkpoints, "drift": drift}, states)


def _check_cases(plan: Plan, files: Mapping[RunKey, RunFiles]) -> None:
    """Check that the records on disk are of cases of the run.

    Raises:
        KnbenchError: a record is of another case; names the file and the case.
    """
    for (_, task), opened in files.items():
        unknown = sorted(opened.records.keys - set(plan.cases[task]))
        if unknown:
            path = opened.records.path
            raise KnbenchError(
                f"{path}: case '{unknown[0]}' is not part of this run; restore the file from a copy, or delete "
                f"{path.parent} to run it again"
            )


def _fields(unit: Unit) -> dict[str, Any]:
    return {"editor": unit.editor, "task": unit.task, "first": unit.first}
