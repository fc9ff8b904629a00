"""``--executor local``: processes on this machine, each of which is the only one of a ``ProcessPoolExecutor``.

An executor is broken as a whole when a process ends. With one process each, it is known which one ended.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context, parent_process
from typing import Any

from .pool import WorkerPool
from .worker import Worker


def local_pool(workers: int) -> WorkerPool:
    """Return a pool of processes on this machine."""
    return WorkerPool("local", [LocalWorker() for _ in range(workers)], pickle.dumps)


class LocalWorker:
    """A spawned process."""

    def start(self) -> None:
        """Start the process. It ignores Ctrl-C, which reaches the whole process group: the run stops its workers."""
        self._executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
        try:
            self._executor.submit(_call, "warm_up")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        (self._process,) = self._executor._processes.values()

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the worker in the process."""
        try:
            return self._executor.submit(_call, method, *args)
        except BrokenProcessPool as error:
            ended: Future[Any] = Future()
            ended.set_exception(error)
            return ended

    def loss(self, error: Exception) -> str | None:
        """Return how the process ended, if that is the reason of an error, and start another one."""
        if not isinstance(error, BrokenProcessPool):
            return None
        self.stop()
        code = self._process.exitcode or 0
        self.start()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def stop(self) -> None:
        """Kill the process, which owns nothing that needs to be closed."""
        self._process.kill()
        self._executor.shutdown()


@cache
def _worker() -> Worker:
    """Return the worker of this process."""
    return Worker()


def _call(method: str, *args: Any) -> Any:
    return getattr(_worker(), method)(*args)


def _end_with_parent() -> None:
    """End this process when the run's process is gone, also in the middle of a command."""

    def wait() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
