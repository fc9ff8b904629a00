"""The side of a run that writes: what is left to measure, and where each line goes as it comes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ..core.progress import Reporter
from ..core.settings import RunSettings
from ..results.io import RecordsFile
from .events import EventLog
from .plan import Completed, OutputLine, Plan, RunKey, State, Unit, WorkItem, units_of
from .run_folder import RunFiles


class RunWriter:
    """Knows what a run has measured and what not, and writes down what comes in, each line once.

    Args:
        plan: the run.
        files: the open run folders by place.
        settings: of the run.
        events: its log.
        reporter: told of every case.
        close: called with each place whose units are all measured.

    Attributes:
        left: the units that are not measured yet, in the order in which they are best begun.
    """

    def __init__(
        self,
        plan: Plan,
        files: Mapping[RunKey, RunFiles],
        settings: RunSettings,
        events: EventLog,
        reporter: Reporter,
        close: Callable[[RunKey], object],
    ) -> None:
        self._plan, self._files, self._settings = plan, files, settings
        self.events, self.reporter, self._close = events, reporter, close
        units = units_of(plan, settings)
        self.left = [unit for unit in units if not self._is_complete(unit)]
        self._open = Counter(unit.place for unit in self.left)
        self.cases = sum(len(unit.indices) for unit in units)
        self.done = sum(self._count(unit) for unit in units)
        reporter.begin(self.cases)
        reporter.advance(self.done)
        for place in files:
            if not self._open[place]:
                close(place)

    def order(self, unit: Unit, worker: int = 0) -> WorkItem:
        """Give a unit to a worker: what it is told besides, is what is written of the unit by now."""
        self.events.note("unit_started", worker=worker, **_place(unit), cases=len(unit.indices))
        return WorkItem(unit, self._written(unit), self._plan.origins[unit.editor])

    def receive(self, unit: Unit, line: OutputLine, worker: int = 0) -> None:
        """Write a line down, unless it is there.

        Raises:
            OSError: it cannot be written.
        """
        file: RecordsFile | None = getattr(self._files[unit.place], line.file)
        if file is None or file.has(line.row):
            return
        file.append(line.row)
        if line.file == "records":
            self.reporter.advance()
            failure, timings = line.row["failure"], line.row["timings"]
            what = {"editor": unit.editor, "task": unit.task, "case_id": line.row["case_id"], "worker": worker}
            taken = {key: timings[key] for key in ("edit_seconds", "probe_seconds")}
            if failure:
                self.events.note("case_failed", **what, **taken, failure=failure)
            else:
                self.events.note("case_done", **what, **taken)

    def finished(self, unit: Unit, worker: int = 0) -> None:
        """Take note that a unit is measured; the last of its folder closes the folder."""
        self.events.note("unit_finished", worker=worker, **_place(unit))
        self.left.remove(unit)
        self._open[unit.place] -= 1
        if not self._open[unit.place]:
            self._close(unit.place)

    def _ids(self, unit: Unit) -> list[str]:
        return list(self._plan.cases[unit.task][unit.first : unit.end])

    def _count(self, unit: Unit) -> int:
        done = self._files[unit.place].records.done
        return sum(case_id in done for case_id in self._ids(unit))

    def _is_complete(self, unit: Unit) -> bool:
        files, ids, stops = self._files[unit.place], self._ids(unit), self._settings.stops
        again, drift = files.checkpoints, files.drift
        unedited = (0,) if unit.first == 0 else ()
        return (
            self._count(unit) == len(ids)
            and (again is None or all(again.has({"edits": k, "case_id": i}) for k in stops for i in ids[:k]))
            and (drift is None or all(drift.has({"edits": k}) for k in (*unedited, *stops)))
        )

    def _written(self, unit: Unit) -> Completed:
        files, ids = self._files[unit.place], set(self._ids(unit))
        if not self._settings.sequential:
            # Keys of drift are edits, case and block: of all cases' only this unit's are of use.
            drift = {key for key in files.drift.done if key[1] is None or key[1] in ids} if files.drift else ()
            return Completed({"records": ids & files.records.done, "drift": drift})
        states = {
            case_id: State(bool(record["failure"]), record["edit"].get("state"))
            for case_id, record in files.stored_records().items()
        }
        checkpoints, drift = (file.done if file else () for file in (files.checkpoints, files.drift))
        return Completed({"records": files.records.done, "checkpoints": checkpoints, "drift": drift}, states)


def _place(unit: Unit) -> dict[str, Any]:
    return {"editor": unit.editor, "task": unit.task, "first": unit.first}
