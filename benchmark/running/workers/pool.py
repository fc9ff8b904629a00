"""A pool of worker processes: assigns units to workers and restarts workers that are lost."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from ...core.errors import KnbenchError
from ...core.progress import Reporter
from ..plan import BlockKey, OutputLine, Plan, Unit, WorkQueue
from ..writer import RunWriter
from .messages import Command, Done, Failed, LoadModel, MakePlan, MeasureItem, Message, Progress, Ready

MAX_CONSECUTIVE_LOSSES = 20
"""Number of workers that may be lost in a row, with nothing measured in between, before a run is given up."""


class WorkerLost(Exception):
    """A worker process ended; the message says how."""


class Worker(ABC):
    """A process, local or remote, that holds one model.

    Attributes:
        number: position in the pool, from 0.
        setup: the run spec and the device, in the form in which they are sent; set before the first command.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.setup: Any = None

    @abstractmethod
    def start(self) -> None:
        """Start the process, or start it again after it was lost. Returns at once and does not need ``setup``."""

    @abstractmethod
    def execute(self, command: Command) -> Iterator[Message]:
        """Send a command and yield the messages up to :class:`Done` or :class:`Failed`.

        Raises:
            WorkerLost: the process ended before that.
        """

    @abstractmethod
    def stop(self) -> None:
        """Kill the process."""


@dataclass(frozen=True)
class _Lost:
    reason: str


class WorkerPool:
    """``with WorkerPool("local", workers) as pool: ...`` is an executor with several workers.

    Workers start at once and receive the run spec through :meth:`configure`, so that they import their libraries while
    the run is being set up. One thread per command reads the worker's messages. Everything else happens in the caller's
    thread. See :class:`~..runner.Executor`.

    Args:
        name: name of the executor on the command line.
        workers: the workers.
    """

    def __init__(self, name: str, workers: Sequence[Worker]) -> None:
        self.name, self._workers = name, workers
        self._inbox: SimpleQueue[tuple[Worker, Message | _Lost]] = SimpleQueue()
        self._busy: dict[int, Command] = {}
        self._pids: dict[int, int] = {}
        self._losses = 0

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

    def configure(self, setup: Any) -> WorkerPool:
        """Set the run spec and device of every worker, and return the pool."""
        for worker in self._workers:
            worker.setup = setup
        return self

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Let the first worker plan the run while the others load their models.

        Raises:
            KnbenchError: the run cannot be planned, or workers are lost repeatedly.
        """
        environment: Mapping[str, Any] = {"executor": self.name, "workers": self.workers}
        make_plan = MakePlan({**environment, "command": command} if command else environment)
        first, *others = self._workers
        self._send(first, make_plan)
        for worker in others:
            self._send(worker, LoadModel())
        while True:
            worker, message = self._inbox.get()
            match message:
                case Plan():
                    return message
                case _Lost():
                    self._restart(worker, message.reason, make_plan if worker is first else LoadModel())
                case _:
                    self._handle(worker, message, reporter)

    def measure(self, writer: RunWriter) -> None:
        """Measure every remaining unit.

        Raises:
            KnbenchError: a worker reports an error, or workers are lost repeatedly.
            OSError: a line cannot be written.
        """
        queue = WorkQueue(writer.remaining)
        running: dict[int, Unit] = {}
        last: dict[int, BlockKey] = {}
        for number, pid in self._pids.items():
            writer.events.note("worker_ready", worker=number, pid=pid)
        while queue or running:
            for worker in self._workers:
                if queue and worker.number not in self._busy:
                    own = last.pop(worker.number, None)
                    unit = queue.take(own, set(last.values()))
                    running[worker.number], last[worker.number] = unit, unit.block
                    self._send(worker, MeasureItem(writer.start(unit, worker.number)))
            worker, message = self._inbox.get()
            match message:
                case OutputLine():
                    writer.write(running[worker.number], message, worker.number)
                    self._losses = 0
                case _Lost():
                    writer.events.note("worker_lost", worker=worker.number, reason=message.reason)
                    if worker.number in running:
                        queue.put_back(running.pop(worker.number))
                    last.pop(worker.number, None)
                    self._restart(worker, message.reason, LoadModel())
                case _:
                    self._handle(worker, message, writer.reporter)
                    if isinstance(message, Ready):
                        writer.events.note("worker_ready", worker=worker.number, pid=message.pid)
                    elif isinstance(message, Done) and worker.number in running:
                        writer.complete(running.pop(worker.number), worker.number)

    def _handle(self, worker: Worker, message: Message, reporter: Reporter) -> None:
        match message:
            case Ready():
                self._pids[worker.number] = message.pid
            case Progress():
                reporter.doing(f"worker {worker.number}: {message.stage}")
            case Done():
                del self._busy[worker.number]
            case Failed():
                raise message.error

    def _send(self, worker: Worker, command: Command) -> None:
        self._busy[worker.number] = command
        threading.Thread(target=self._listen, args=(worker, command), daemon=True).start()

    def _listen(self, worker: Worker, command: Command) -> None:
        try:
            for message in worker.execute(command):
                self._inbox.put((worker, message))
        except WorkerLost as error:
            self._inbox.put((worker, _Lost(str(error))))
        except Exception as error:  # for example an object that cannot be pickled: another attempt would fail, too
            self._inbox.put((worker, Failed(error)))

    def _restart(self, worker: Worker, reason: str, command: Command) -> None:
        self._losses += 1
        self._pids.pop(worker.number, None)
        if self._losses > MAX_CONSECUTIVE_LOSSES:
            raise KnbenchError(
                f"{self._losses} workers were lost in a row with nothing measured in between ({reason}); start the "
                "same command again to continue, with fewer workers if memory is short"
            )
        worker.start()
        self._send(worker, command)
