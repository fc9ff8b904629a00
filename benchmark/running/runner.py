"""Runs editors over tasks: measure, edit, measure again, restore, write the record.

An :class:`~.evaluator.Evaluator` holds the model and measures. A :class:`~.writer.RunWriter` writes. An executor
connects the two, in one process or over worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..core import registry
from ..core.progress import Reporter
from ..core.schema import Task
from ..core.settings import RunSettings
from ..editing import Editor
from ..models.language_model import LanguageModel
from ..results.runs import Run
from .evaluator import Evaluator
from .events import EVENTS, EventLog
from .plan import Plan, RunKey
from .run_folder import finish, locked, open_folder
from .shards import Shard
from .writer import RunWriter


class Executor(Protocol):
    """Plans a run and measures its units, with one or more workers."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def workers(self) -> int:
        """Number of models that are held at once."""

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Return the plan of the run."""

    def measure(self, writer: RunWriter) -> None:
        """Measure every remaining unit."""


class Serial:
    """Executor that measures one unit after the other in this process."""

    name, workers = "serial", 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Return the plan of the run."""
        self._evaluator.reporter = reporter
        return self._evaluator.plan({"command": command} if command else {})

    def measure(self, writer: RunWriter) -> None:
        """Measure every remaining unit."""
        for unit in list(writer.remaining):
            self._evaluator.measure(writer.start(unit), partial(writer.write, unit))
            writer.complete(unit)


def run(
    lm: LanguageModel,
    editors: Sequence[type[Editor[Any]]],
    tasks: Sequence[Task],
    output: Path,
    settings: RunSettings,
    reporter: Reporter | None = None,
    *,
    command: str | None = None,
) -> list[Run]:
    """Run every editor over every task in this process.

    Args:
        lm: the model.
        editors: classes of the methods.
        tasks: the tasks.
        output: folder for the run folders.
        settings: all other settings that affect the numbers.
        reporter: receives progress.
        command: the command line, which is noted in the results.

    Returns:
        The finished runs, in folders ``output/editor/task``.

    Raises:
        KnbenchError: a folder holds another run, or an editor left the model changed.
    """
    reporter = reporter or Reporter()
    executor = Serial(Evaluator(lm, editors, tasks, settings, reporter))
    return execute(executor, output, settings, reporter, command=command)


def execute(
    executor: Executor,
    output: Path,
    settings: RunSettings,
    reporter: Reporter,
    *,
    command: str | None = None,
    fail_on_error: float | None = None,
    shard: Shard | None = None,
) -> list[Run]:
    """Measure a run with an executor, and write one folder per editor and task.

    A folder that holds records of the same run is continued after its last complete record.

    Args:
        executor: measures the units.
        output: folder for the run folders and the event log.
        settings: the settings that the executor's workers use.
        reporter: receives progress.
        command: the command line, which is noted in the results.
        fail_on_error: stop when more than this share (below 1) or number (from 1) of the cases of an editor on a task
            failed; None never stops.
        shard: measure only this part of the run, in folders without a result, which :func:`~.shards.merge` unites.

    Returns:
        The finished runs, in folders ``output/editor/task``; none of a shard.

    Raises:
        KnbenchError: a folder holds another run, an editor left the model changed, workers are lost repeatedly, or too
            many cases failed.
        OSError: a file cannot be written.
    """
    plan = executor.plan(command, reporter)
    for warning in plan.warnings:  # here and not where the run is planned, which can be another machine
        registry.warn(warning)
    keys = [(editor, task) for task in plan.cases for editor in plan.joint_batch_sizes]
    folders = {(editor, task): output / editor / task for editor, task in keys}
    finished: dict[RunKey, Run] = {}

    def finish_run(key: RunKey) -> None:
        if shard is None:
            finished[key] = finish(folders[key])

    with ExitStack() as stack:
        # Every folder is opened before anything is measured, so that a wrong one is refused at once.
        for folder in folders.values():
            stack.enter_context(locked(folder))
        files = {key: open_folder(folder, plan.manifests[key]) for key, folder in folders.items()}
        if settings.retry_failed:
            for opened in files.values():
                opened.drop_failed()
        events = EventLog(output / EVENTS)
        writer = RunWriter(plan, files, settings, events, reporter, finish_run, fail_on_error, shard)
        stack.enter_context(_logged(events, executor, writer))
        executor.measure(writer)
    return [finished[key] for key in keys if key in finished]


@contextmanager
def _logged(events: EventLog, executor: Executor, writer: RunWriter) -> Iterator[None]:
    """Note the start and the end of a run."""
    events.note("run_started", executor=executor.name, workers=executor.workers, cases=writer.cases, done=writer.done)
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the error itself reports a full disk
            events.note("run_stopped", reason=f"{type(error).__name__}: {error}"[:500])
        raise
    events.note("run_finished")
