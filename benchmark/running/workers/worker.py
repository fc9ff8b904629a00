"""The worker's side: holds a model, executes one command after the other, and hands messages over when asked."""

from __future__ import annotations

import importlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Queue
from typing import TYPE_CHECKING

from ...core.errors import KnbenchError, first_line
from ...core.progress import Reporter
from ..plan import CasesStarted
from .messages import Command, Done, Lost, MakePlan, Message, Progress, Ready, failed

if TYPE_CHECKING:
    from ..evaluator import Evaluator, RunSpec, WorkerDevice


class Worker(Reporter):
    """Executes commands in a thread, and reports their progress as messages.

    The run's process calls :meth:`execute` to start a command, and then :meth:`receive` until one of the messages is
    :data:`~.messages.LAST`.
    """

    def __init__(self) -> None:
        self._outbox: Queue[Message] = Queue(64)  # a worker that is far ahead of the run's process waits
        self._delivered, self._has_command = 0, False
        self._setup: tuple[bytes, int] | None = None
        self._evaluator: Evaluator | None = None

    def warm_up(self) -> None:
        """Import torch while the run is being set up. An error is reported by the first command."""
        with suppress(Exception):
            importlib.import_module("..evaluator", __package__)

    def set_up(self, setup: bytes, number: int) -> None:
        """Keep for the first command the pickled run spec and devices of all workers, and the number of this one."""
        if self._has_command:  # it was lost with a connection, and its unit was assigned again
            os._exit(1)
        self._setup = setup, number

    def execute(self, command: Command) -> None:
        """Start a command."""
        if self._setup is not None:
            self._has_command = True
            threading.Thread(target=self._execute, args=(command, *self._setup), daemon=True).start()

    def receive(self) -> list[Message]:
        """Wait for messages and return them. The call acknowledges those of the previous one."""
        if self._setup is None:
            return [Lost("its process ended, and this one was started in its place")]
        for _ in range(self._delivered):
            self._outbox.task_done()
        messages = [self._outbox.get()]
        messages += [self._outbox.get() for _ in range(self._outbox.qsize())]
        self._delivered = len(messages)
        return messages

    def _emit(self, message: Message) -> None:
        self._outbox.put(message)
        if isinstance(message, CasesStarted):
            self._outbox.join()  # the run must know which cases were started, if they end this process

    def _execute(self, command: Command, setup: bytes, number: int) -> None:
        try:
            if self._evaluator is None:
                spec, devices = _unpickled(setup)
                self._evaluator = spec.build_evaluator(devices[number], self)
                self._emit(Ready(os.getpid()))
            if isinstance(command, MakePlan):
                self._emit(self._evaluator.plan(command.environment))
            elif command is not None:
                self._evaluator.measure(command, self._emit)
        except BaseException as error:  # also SystemExit: without a last message the run would wait for ever
            last: Message = failed(error)
        else:
            last = Done()
        self._has_command = False
        self._emit(last)

    def doing(self, label: str) -> None:
        """Emit a stage."""
        self._emit(Progress(label))

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Emit every step of a stage."""
        steps = iter(range(1, total + 1))
        yield lambda: self._emit(Progress(f"{label} {next(steps, total)}/{total}"))


def _unpickled(setup: bytes) -> tuple[RunSpec, Sequence[WorkerDevice]]:
    """Unpickle the setup, which imports the modules of its parts: the first step that fails without a library."""
    try:
        unpickled: tuple[RunSpec, Sequence[WorkerDevice]] = pickle.loads(setup)
    except (Exception, SystemExit) as error:
        raise KnbenchError(f"a worker cannot be set up: {type(error).__name__}: {first_line(error)}") from error
    return unpickled
