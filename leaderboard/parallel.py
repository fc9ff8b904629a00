"""Maps a function over items with all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_JOB: list[Any] = []
"""In a worker process: the function and its items."""


def parallel_map(function: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, processes: bool) -> list[ResultT]:
    """Return the results of a function in the order of the items.

    Worker processes take over function and items when they start: where processes are forked, nothing is copied to
    them, and only results are sent back. This matters because to send the values of a result takes as long as to use
    them.

    Args:
        function: the function; its results are picklable.
        items: its arguments.
        processes: whether to use one process per core, or the calling process.
    """
    workers = min(os.cpu_count() or 1, len(items))
    if not processes or workers < 2:
        return [function(item) for item in items]
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(function, items)) as pool:
        return list(pool.map(_call, range(len(items)), chunksize=max(1, len(items) // (50 * workers))))


def _start(*job: Any) -> None:
    """Prepare a worker process. The cores are taken: further threads of matrix products only wait for each other."""
    _JOB.extend(job)
    threadpool_limits(1)


def _call(number: int) -> Any:
    function, items = _JOB
    return function(items[number])
