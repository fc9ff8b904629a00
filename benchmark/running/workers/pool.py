"""Several workers on one run: who takes which unit, and what happens when one of them is lost."""

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
from .messages import Command, Doing, Done, Failed, LoadModel, MakePlan, MeasureItem, Message, Ready

MOST_LOSSES = 20
"""Workers lost one after the other, with nothing measured in between, before a run is given up."""


class WorkerLost(Exception):
    """A worker is gone; the message says how."""


class Worker(ABC):
    """A process, here or elsewhere, that holds the model once.

    Attributes:
        number: from 0.
        told: what its process is told before the first question, in the form in which it is sent: recipe and post.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.told: Any = None

    @abstractmethod
    def start(self) -> None:
        """Have the process started, again where it was lost; returns at once, and needs not know what it is told."""

    @abstractmethod
    def ask(self, question: Command) -> Iterator[Message]:
        """Yield what the worker tells, up to :class:`Done` or :class:`Failed`.

        Raises:
            WorkerLost: it ended before that.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the process, whatever it does."""


@dataclass(frozen=True)
class _Lost:
    reason: str


class WorkerPool:
    """``with Crew("local", workers) as crew: ...`` is an executor with several workers; see :class:`~.runner.Executor`.

    Workers start at once, and are told by :meth:`configure` what to do: they can import while a run is put together.
    One thread for each question under way listens to its worker; everything else happens in the caller's thread.
    """

    def __init__(self, name: str, workers: Sequence[Worker]) -> None:
        self.name, self._workers = name, workers
        self._inbox: SimpleQueue[tuple[Worker, Message | _Lost]] = SimpleQueue()
        self._busy: dict[int, Command] = {}
        self._pids: dict[int, int] = {}
        self._losses = 0

    @property
    def workers(self) -> int:
        """How many models are held at once."""
        return len(self._workers)

    def __enter__(self) -> WorkerPool:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.stop()

    def configure(self, told: Any) -> WorkerPool:
        """Have every worker told what the run is about."""
        for worker in self._workers:
            worker.told = told
        return self

    def plan(self, command: str | None, reporter: Reporter) -> Plan:
        """Have the first worker plan the run, while the others load their models.

        Raises:
            KnbenchError: it cannot be planned, or workers are lost again and again.
        """
        about: Mapping[str, Any] = {"executor": self.name, "workers": self.workers}
        wanted = MakePlan({**about, "command": command} if command else about)
        first, *others = self._workers
        self._ask(first, wanted)
        for worker in others:
            self._ask(worker, LoadModel())
        while True:
            worker, message = self._inbox.get()
            match message:
                case Plan():
                    return message
                case _Lost():
                    self._restart(worker, message.reason, wanted if worker is first else LoadModel())
                case _:
                    self._note(worker, message, reporter)

    def measure(self, writer: RunWriter) -> None:
        """Measure every unit that the ledger has left.

        Raises:
            KnbenchError: a worker's complaint, or workers are lost again and again.
            OSError: what was measured cannot be written.
        """
        waiting = WorkQueue(writer.left)
        under_way: dict[int, Unit] = {}
        last: dict[int, BlockKey] = {}
        for number, pid in self._pids.items():
            writer.events.note("worker_ready", worker=number, pid=pid)
        while waiting or under_way:
            for worker in self._workers:
                if waiting and worker.number not in self._busy:
                    mine = last.pop(worker.number, None)
                    unit = waiting.take(mine, set(last.values()))
                    under_way[worker.number], last[worker.number] = unit, unit.start
                    self._ask(worker, MeasureItem(writer.order(unit, worker.number)))
            worker, message = self._inbox.get()
            match message:
                case OutputLine():
                    writer.receive(under_way[worker.number], message, worker.number)
                    self._losses = 0
                case _Lost():
                    writer.events.note("worker_lost", worker=worker.number, reason=message.reason)
                    if worker.number in under_way:
                        waiting.put_back(under_way.pop(worker.number))
                    last.pop(worker.number, None)
                    self._restart(worker, message.reason, LoadModel())
                case _:
                    self._note(worker, message, writer.reporter)
                    if isinstance(message, Ready):
                        writer.events.note("worker_ready", worker=worker.number, pid=message.pid)
                    elif isinstance(message, Done) and worker.number in under_way:
                        writer.finished(under_way.pop(worker.number), worker.number)

    def _note(self, worker: Worker, message: Message, reporter: Reporter) -> None:
        match message:
            case Ready():
                self._pids[worker.number] = message.pid
            case Doing():
                reporter.doing(f"worker {worker.number}: {message.what}")
            case Done():
                del self._busy[worker.number]
            case Failed():
                raise message.error

    def _ask(self, worker: Worker, question: Command) -> None:
        self._busy[worker.number] = question
        threading.Thread(target=self._listen, args=(worker, question), daemon=True).start()

    def _listen(self, worker: Worker, question: Command) -> None:
        try:
            for message in worker.ask(question):
                self._inbox.put((worker, message))
        except WorkerLost as error:
            self._inbox.put((worker, _Lost(str(error))))
        except Exception as error:  # such as what cannot be sent: asking again would not help
            self._inbox.put((worker, Failed(error)))

    def _restart(self, worker: Worker, reason: str, question: Command) -> None:
        self._losses += 1
        self._pids.pop(worker.number, None)
        if self._losses > MOST_LOSSES:
            raise KnbenchError(
                f"{self._losses} workers were lost one after the other with nothing measured in between ({reason}); "
                "start the same command again to continue, with fewer workers if memory is short"
            )
        worker.start()
        self._ask(worker, question)
