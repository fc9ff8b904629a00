"""Published data sets as tasks for the command line: ``--tasks pararel:P36 --data pararel=FILE``."""

from __future__ import annotations

from ..benchmark.core.schema import Task
from .readers import read_task


def read(reader: str, selection: str | None, source: str | None) -> tuple[Task, list[str]]:
    """Return the task, and one line for people if something could not be read.

    Raises:
        KnbenchError: see :func:`knbench.tasks.readers.read_task`.
    """
    task, report = read_task(reader, selection, source)
    if not report.reasons:
        return task, []
    reasons = "; ".join(f"{count} times {reason}" for reason, count in report.reasons.items())
    return task, [f"{task.name}: read {report.read}, left out {report.skipped} ({reasons}); first: {report.first}"]
