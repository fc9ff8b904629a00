"""``--executor local``: several processes on this machine, each with the model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from .messages import Command, Done, Failed, Message
from .pool import Worker, WorkerLost, WorkerPool

if TYPE_CHECKING:
    from ..evaluator import WorkerDevice


def local_crew(workers: int) -> WorkerPool:
    """Return a crew of processes on this machine, which are told their recipe and their post."""
    return WorkerPool("local", [LocalWorker(number) for number in range(workers)])


class LocalWorker(Worker):
    """A process on this machine, started afresh and asked over a pipe."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._knows = False

    def start(self) -> None:
        """Start the process."""
        self.stop()
        spawn = get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        theirs.close()
        self._knows = False

    def ask(self, question: Command) -> Iterator[Message]:
        """Yield what the process tells.

        Raises:
            WorkerLost: it ended.
        """
        pipe, process = self._pipe, self._process
        if pipe is None or process is None:
            raise WorkerLost("it was not started")
        try:
            if not self._knows:
                pipe.send((*self.told, self.number))
                self._knows = True
            pipe.send(question)
            while True:
                message = pipe.recv()
                yield message
                if isinstance(message, Done | Failed):
                    return
        except (EOFError, OSError):
            process.join(5)
            code = process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            raise WorkerLost(f"worker {self.number} {how}") from None

    def stop(self) -> None:
        """Kill the process; it owns nothing that would have to be put away."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let what is started here not hear of Ctrl-C, which reaches a terminal's whole group: the run ends its workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """Answer questions for as long as there is somebody to ask them."""
    questions: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_hear, args=(pipe, questions), daemon=True).start()
    from .loop import WorkerLoop  # which takes seconds, and goes on while this process is not told anything yet

    spec, post, number = questions.get()
    station = WorkerLoop(spec, _dealt(post, number))
    while True:
        station.answer(questions.get(), pipe.send)


def _hear(pipe: Connection, questions: SimpleQueue[Any]) -> None:
    """Queue questions; end the process when the run's own is gone, also in the middle of an answer."""
    try:
        while True:
            questions.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def _dealt(post: WorkerDevice, number: int) -> WorkerDevice:
    """Return the post of a worker: of ``cuda`` each takes the next card."""
    if post.device != "cuda":
        return post
    import torch

    return replace(post, device=f"cuda:{number % torch.cuda.device_count()}")
