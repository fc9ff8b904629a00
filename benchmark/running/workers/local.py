"""``--executor local``: several processes on this machine, each with its own model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from .messages import Command, Done, Failed, Message, setup_failed
from .pool import Worker, WorkerLost, WorkerPool

if TYPE_CHECKING:
    from ..evaluator import WorkerDevice


def local_pool(workers: int) -> WorkerPool:
    """Return a pool of processes on this machine. Its setup is a tuple of run spec and :class:`WorkerDevice`."""
    return WorkerPool("local", [LocalWorker(number) for number in range(workers)])


class LocalWorker(Worker):
    """A spawned process that receives commands over a pipe."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._is_set_up = False

    def start(self) -> None:
        """Start the process."""
        self.stop()
        spawn = get_context("spawn")
        self._pipe, child_pipe = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(child_pipe,), daemon=True)
        with _sigint_blocked():
            self._process.start()
        child_pipe.close()
        self._is_set_up = False

    def execute(self, command: Command) -> Iterator[Message]:
        """Send a command and yield the messages.

        Raises:
            WorkerLost: the process ended.
        """
        pipe, process = self._pipe, self._process
        if pipe is None or process is None:
            raise WorkerLost(f"worker {self.number} was not started")
        try:
            with suppress(OSError):  # the process ended; what it sent before tells why
                if not self._is_set_up:
                    pipe.send((*self.setup, self.number))
                    self._is_set_up = True
                pipe.send(command)
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
        """Kill the process, which owns nothing that needs to be closed."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which reaches the terminal's process group: the run stops its workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """Execute commands until the run's process ends."""
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    try:
        from .loop import WorkerLoop  # imports torch, which takes seconds, while the run is being set up

        setup = inbox.get()
        if isinstance(setup, Failed):
            pipe.send(setup)
            return
        spec, device, number = setup
        loop = WorkerLoop(spec, _assigned(device, number))
    except (Exception, SystemExit) as error:
        pipe.send(setup_failed(error))
        return
    while True:
        command = inbox.get()
        if isinstance(command, Failed):
            pipe.send(command)
        else:
            loop.execute(command, pipe.send)


def _receive(pipe: Connection, inbox: SimpleQueue[Any]) -> None:
    """Queue the received objects. End the process when the run's process is gone, also in the middle of a command.

    For an object that cannot be unpickled, for example because its module is missing here, :class:`Failed` is queued.
    """
    while True:
        try:
            inbox.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)
        except (Exception, SystemExit) as error:
            inbox.put(setup_failed(error))


def _assigned(device: WorkerDevice, number: int) -> WorkerDevice:
    """Return the device of a worker. ``cuda`` assigns the GPUs in turn."""
    if device.device != "cuda":
        return device
    import torch

    return replace(device, device=f"cuda:{number % torch.cuda.device_count()}")
