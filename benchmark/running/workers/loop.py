"""The worker side: load the model once, and execute one command after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...core.progress import Reporter
from ..evaluator import Evaluator, RunSpec, WorkerDevice
from .messages import Command, Done, Emit, Progress, Ready, failed


class WorkerLoop:
    """Builds an evaluator for the first command and keeps it for the following ones."""

    def __init__(self, spec: RunSpec, device: WorkerDevice) -> None:
        self._spec, self._device = spec, device
        self._evaluator: Evaluator | None = None

    def execute(self, command: Command, emit: Emit) -> None:
        """Execute a command. The last emitted message is :class:`~.messages.Done` or :class:`~.messages.Failed`."""
        reporter = _EmittingReporter(emit)
        try:
            if self._evaluator is None:
                self._evaluator = self._spec.build_evaluator(self._device, reporter)
                emit(Ready(os.getpid()))
            self._evaluator.reporter = reporter
            command.execute(self._evaluator, emit)
        except BaseException as error:  # also SystemExit: without a message the run would wait for ever
            emit(failed(error))
        else:
            emit(Done())


class _EmittingReporter(Reporter):
    """Emits progress as messages."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def doing(self, what: str) -> None:
        """Emit a stage."""
        self._emit(Progress(what))

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Emit every step of a stage."""
        steps = iter(range(1, total + 1))
        yield lambda: self._emit(Progress(f"{what} {next(steps, total)}/{total}"))
