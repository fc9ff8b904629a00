"""A pool of workers: assigns units to them, writes what they measure, and assigns the units of lost workers again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import KnbenchError, first_line
from ...core.progress import Reporter
from ..losses import Losses
from ..plan import CasesStarted, LinesWithdrawn, OutputLine, Plan, Unit, WorkQueue
from ..writer import RunWriter
from .messages import LAST, Command, Done, Failed, Lost, MakePlan, Message, Progress, Ready

if TYPE_CHECKING:
    from ..evaluator import RunSpec, WorkerDevice


class RemoteWorker(Protocol):
    """A :class:`~.worker.Worker` in another process."""

    def start(self) -> None:
        """Start the process. Returns at once."""

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the worker. Calls are executed in their order."""

    def loss(self, error: Exception) -> str | None:
        """Return how the process ended, if that is the reason of an error, and have it replaced."""

    def stop(self) -> None:
        """Kill the process."""


class WorkerPool:
    """``with WorkerPool("local", workers, pickle.dumps) as pool: ...`` is an executor with several workers.

    A worker has one command at a time, and one call of :meth:`Worker.receive` waits for its messages. No more messages
    are held in memory, and this process needs no threads of its own.

    Args:
        name: name of the executor.
        workers: the workers; started by the ``with`` block.
        pack: pickles an object for :meth:`Worker.set_up`.
    """

    def __init__(self, name: str, workers: Sequence[RemoteWorker], pack: Callable[[object], object]) -> None:
        self.name, self._workers, self._pack = name, workers, pack
        self._setup: object = None
        self._calls: dict[Future[list[Message] | None], int] = {}
        self._received: deque[tuple[int, Message]] = deque()
        self._losses = Losses()

    @property
    def workers(self) -> int:
        """Number of models that are held at once."""
        return len(self._workers)

    def __enter__(self) -> WorkerPool:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.stop()

    def configure(self, spec: RunSpec, devices: Sequence[WorkerDevice]) -> WorkerPool:
        """Set the run spec, and the device of each worker, and return the pool."""
        self._setup = self._pack((spec, devices))
        for number, worker in enumerate(self._workers):
            worker.call("set_up", self._setup, number)
        return self

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Let the first worker plan the run while the others load their models.

        Raises:
            KnbenchError: the run cannot be planned, or workers are lost repeatedly.
        """
        environment = {"executor": self.name, "workers": self.workers, **({"command": command} if command else {})}
        commands: list[Command] = [MakePlan(environment), *[None] * (self.workers - 1)]
        for number, load in enumerate(commands):
            self._send(number, load)
        others: list[tuple[int, Message]] = []  # for measure()
        for number, message in self._messages(reporter):
            if isinstance(message, Lost):
                self._losses.add(None, message.reason)
                self._send(number, commands[number])
            elif isinstance(message, Plan):
                self._received.extendleft(reversed(others))
                return message
            else:
                others.append((number, message))
        raise AssertionError("a worker that plans emits a plan or an error")

    def measure(self, writer: RunWriter) -> None:
        """Measure every remaining unit. A worker takes units when it has loaded its model.

        Raises:
            KnbenchError: a worker reports an error, or workers are lost repeatedly.
            OSError: a line cannot be written.
        """
        queue, losses = WorkQueue(writer.remaining), self._losses
        idle, units = set[int](), dict[int, Unit]()
        messages = self._messages(writer.reporter)
        while queue or units:
            number, message = next(messages)
            match message:
                case Ready(pid):
                    writer.events.note("worker_ready", worker=number, pid=pid)
                case CasesStarted(case_ids):
                    losses.started(units[number], case_ids)
                case LinesWithdrawn():
                    writer.write(units[number], message, number)
                case OutputLine():
                    writer.write(units[number], message, number)
                    losses.measured(units[number])
                case Done():
                    idle.add(number)
                    if unit := units.pop(number, None):
                        writer.complete(unit, number)
                case Lost(reason):
                    idle.add(number)
                    writer.events.note("worker_lost", worker=number, reason=reason)
                    losses.add(unit := units.pop(number, None), reason, divisible=writer.divisible)
                    if unit:
                        queue.put_back(unit, number)
            while idle and queue:
                number = min(idle)
                idle.remove(number)
                unit = units[number] = queue.take(number)
                failures, alone = losses.of(unit)
                self._send(number, writer.start(unit, number, lost=failures, alone=alone))

    def _send(self, number: int, command: Command) -> None:
        self._calls[self._workers[number].call("execute", command)] = number

    def _messages(self, reporter: Reporter) -> Iterator[tuple[int, Message]]:
        """Yield the messages of the workers until none has a command. Progress is reported, and errors are raised."""
        while self._calls or self._received:
            while self._received:
                number, message = self._received.popleft()
                if isinstance(message, Progress):
                    reporter.doing(f"worker {number}: {message.stage}")
                elif isinstance(message, Failed):
                    raise message.error from message.cause
                else:
                    yield number, message
            for call in wait(self._calls, return_when=FIRST_COMPLETED).done:
                self._receive(self._calls.pop(call), call)

    def _receive(self, number: int, call: Future[list[Message] | None]) -> None:
        """Note the messages that a call returned, and ask for more unless they end the command."""
        worker = self._workers[number]
        try:
            messages = call.result() or []
        except Exception as error:
            if (how := worker.loss(error)) is None:
                raise KnbenchError(f"a worker cannot be set up: {first_line(error)}") from error
            messages = [Lost(f"worker {number} {how}")]
        self._received.extend((number, message) for message in messages)
        if messages and isinstance(messages[-1], Lost):
            worker.call("set_up", self._setup, number)
        if not messages or not isinstance(messages[-1], LAST):
            self._calls[worker.call("receive")] = number
