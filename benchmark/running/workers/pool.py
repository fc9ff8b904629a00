"""A pool of worker processes: assigns units to workers and restarts workers that are lost."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from ...core.errors import KnbenchError
from ...core.progress import Reporter
from ...core.records import Failure
from ..plan import BlockKey, CasesStarted, LinesWithdrawn, OutputLine, Plan, Unit, WorkQueue
from ..writer import RunWriter
from .messages import Command, Done, Failed, LoadModel, MakePlan, MeasureItem, Message, Progress, Ready

MAX_CONSECUTIVE_LOSSES = 20
"""Number of workers that may be lost in a row, or with one unit, with nothing measured in between, before a stop."""
MAX_ATTEMPTS = 3
"""Number of workers that a case may end before it is recorded as failed."""


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


class LossTracker:
    """Attributes lost workers to the cases that they were editing or measuring.

    Cases that are edited together and end :data:`MAX_ATTEMPTS` workers are edited one by one from then on. A case that
    ends as many workers on its own, or a batch, fails.

    Example: ``tracker.started(unit, ["a"]); tracker.lost(unit, "killed")``
    """

    def __init__(self) -> None:
        self._started: dict[Unit, tuple[str, ...]] = {}
        self._counts: Counter[tuple[Unit, tuple[str, ...]]] = Counter()
        self._idle: Counter[Unit] = Counter()
        self._failures: dict[Unit, dict[str, Failure]] = {}
        self._alone: set[Unit] = set()

    def started(self, unit: Unit, case_ids: tuple[str, ...]) -> None:
        """Note the cases that a unit's worker starts."""
        self._started[unit] = case_ids

    def measured(self, unit: Unit) -> None:
        """Note that a line of a unit was measured."""
        self._idle[unit] = 0
        self._counts.pop((unit, self._started.pop(unit, ())), None)

    def lost(self, unit: Unit, reason: str, *, divisible: bool) -> None:
        """Attribute a lost worker.

        Args:
            unit: the unit that it was measuring.
            reason: how it was lost.
            divisible: whether cases that are edited together can be edited one by one.

        Raises:
            KnbenchError: the unit ended :data:`MAX_CONSECUTIVE_LOSSES` workers before a case could be recorded.
        """
        self._idle[unit] += 1
        if self._idle[unit] > MAX_CONSECUTIVE_LOSSES:
            raise KnbenchError(
                f"{unit}: {self._idle[unit]} workers were lost in a row with nothing measured in between ({reason}); "
                "start the same command again to continue, with fewer workers if memory is short"
            )
        cases = self._started.pop(unit, ())
        if not cases:
            return
        self._counts[unit, cases] += 1
        if self._counts[unit, cases] < MAX_ATTEMPTS:
            return
        if len(cases) > 1 and divisible and unit not in self._alone:
            self._alone.add(unit)
            return
        failure = Failure(phase="edit", type="WorkerLost", message=f"{reason}, in {MAX_ATTEMPTS} attempts")
        self._failures.setdefault(unit, {}).update(dict.fromkeys(cases, failure))

    def failures(self, unit: Unit) -> dict[str, Failure]:
        """Return the failures of a unit's cases by case id."""
        return self._failures.get(unit, {})

    def alone(self, unit: Unit) -> bool:
        """Return whether the unit's cases are edited one by one."""
        return unit in self._alone


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
        queue, losses = WorkQueue(writer.remaining), LossTracker()
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
                    item = writer.start(unit, worker.number, lost=losses.failures(unit), alone=losses.alone(unit))
                    self._send(worker, MeasureItem(item))
            worker, message = self._inbox.get()
            match message:
                case CasesStarted():
                    losses.started(running[worker.number], message.case_ids)
                case LinesWithdrawn():
                    writer.write(running[worker.number], message, worker.number)
                case OutputLine():
                    writer.write(running[worker.number], message, worker.number)
                    losses.measured(running[worker.number])
                    self._losses = 0
                case _Lost():
                    writer.events.note("worker_lost", worker=worker.number, reason=message.reason)
                    if worker.number in running:
                        unit = running.pop(worker.number)
                        losses.lost(unit, message.reason, divisible=writer.divisible)
                        queue.put_back(unit)
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
                raise message.error from message.cause

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
