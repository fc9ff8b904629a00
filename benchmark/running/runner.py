"""Runs editors over tasks: measure, edit, measure again, take the edit back, write the record down.

An :class:`~.evaluator.Evaluator` holds the model and measures, a :class:`~.writer.RunWriter` writes, and an executor
stands between the two: the same straight line whether both are in one process or the first is on many machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..core.progress import Reporter
from ..core.schema import Task
from ..core.settings import RunSettings
from ..editing import Editor
from ..models.language_model import LanguageModel
from .evaluator import Evaluator
from .events import EVENTS, EventLog
from .plan import Plan
from .run_folder import finish, locked, open_folder
from .writer import RunWriter


class Executor(Protocol):
    """Has a run's plan made and its units measured, by however many workers."""

    @property
    def name(self) -> str:
        """How the command line calls it."""

    @property
    def workers(self) -> int:
        """How many models are held at once."""

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Ask a model what the run comes to."""

    def measure(self, writer: RunWriter) -> None:
        """Measure every unit that the ledger has left."""


class Serial:
    """Measures one unit after the other, in this process."""

    name, workers = "serial", 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._bench = evaluator

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Ask the model what the run comes to."""
        self._bench.reporter = reporter
        return self._bench.plan({"command": command} if command else {})

    def measure(self, writer: RunWriter) -> None:
        """Measure every unit that is left."""
        for unit in list(writer.left):
            self._bench.measure(writer.order(unit), partial(writer.receive, unit))
            writer.finished(unit)


def run(
    lm: LanguageModel,
    editors: Sequence[type[Editor[Any]]],
    tasks: Sequence[Task],
    output: Path,
    settings: RunSettings,
    reporter: Reporter | None = None,
    *,
    command: str | None = None,
) -> list[Path]:
    """Run every editor over every task in this process and write one folder per pair.

    Args:
        lm: the model.
        editors: the methods.
        tasks: the tasks.
        output: the folder above those that are written.
        settings: everything else that decides the numbers.
        reporter: told how far it is.
        command: what was typed, noted in the results.

    Returns:
        The folders ``output/editor/task``, each with manifest, records and result.

    Raises:
        KnbenchError: a folder holds another run, or an editor left the model changed.
    """
    reporter = reporter or Reporter()
    executor = Serial(Evaluator(lm, editors, tasks, settings, reporter))
    return carry_out(executor, output, settings, reporter, command=command)


def carry_out(
    executor: Executor,
    output: Path,
    settings: RunSettings,
    reporter: Reporter,
    *,
    command: str | None = None,
) -> list[Path]:
    """Have an executor measure a run, and write one folder per editor and task.

    A folder that already holds records of the same run is continued after its last whole record.

    Args:
        executor: who measures.
        output: the folder above those that are written; the log of the run lies in it.
        settings: those that the executor's workers go by.
        reporter: told how far it is.
        command: what was typed, noted in the results.

    Returns:
        The folders ``output/editor/task``, each with manifest, records and result.

    Raises:
        KnbenchError: a folder holds another run, an editor left the model changed, or workers are lost again and again.
        OSError: something cannot be written.
    """
    plan = executor.plan(command, reporter)
    places = [(editor, task) for task in plan.cases for editor in plan.joint_batch_size]
    folders = {(editor, task): output / editor / task for editor, task in places}
    with ExitStack() as stack:
        # Every folder is opened before anything is measured, so that a wrong one is refused at once.
        for folder in folders.values():
            stack.enter_context(locked(folder))
        files = {place: open_folder(folder, plan.manifests[place]) for place, folder in folders.items()}
        if settings.retry_failed:
            for opened in files.values():
                opened.records.drop(lambda record: record["failure"] is not None)
        events = EventLog(output / EVENTS)
        writer = RunWriter(plan, files, settings, events, reporter, lambda place: finish(folders[place]))
        stack.enter_context(_logged(events, executor, writer))
        executor.measure(writer)
    return list(folders.values())


@contextmanager
def _logged(events: EventLog, executor: Executor, writer: RunWriter) -> Iterator[None]:
    """Note when a run begins, and how it ends."""
    events.note("run_started", executor=executor.name, workers=executor.workers, cases=writer.cases, done=writer.done)
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # of a full disk the error itself tells
            events.note("run_stopped", reason=f"{type(error).__name__}: {error}"[:500])
        raise
    events.note("run_finished")
