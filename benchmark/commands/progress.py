"""Progress on stderr: a bar in a terminal, a line every 30 seconds elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from ..core.progress import Reporter

INTERVAL = 30.0
"""Seconds between the lines of progress without a terminal."""


@contextmanager
def open_reporter(*, quiet: bool = False, transient: bool = False) -> Iterator[Reporter]:
    """``with open_reporter() as reporter: ...`` shows the progress of the block.

    Args:
        quiet: whether to show nothing.
        transient: whether a bar disappears at the end.
    """
    if quiet:
        yield Reporter()
    elif sys.stderr.isatty():
        from .terminal import ProgressReporter

        with ProgressReporter(transient=transient) as reporter:
            yield reporter
    else:
        with LineReporter() as lines:
            yield lines


class LineReporter(Reporter):
    """Writes a line of progress at regular intervals, also while one case takes long.

    A block that ends within the first interval writes nothing.

    Args:
        interval: seconds between lines.
        stream: where they are written; None is stderr.
        clock: returns the time in seconds.
    """

    def __init__(
        self, interval: float = INTERVAL, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._stream, self._clock = interval, stream or sys.stderr, clock
        self._label, self._done, self._total = "loading", 0, 0
        self._start = self._counted = self._advanced = clock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> LineReporter:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, total: int) -> None:
        """Set the number of cases."""
        self._total, self._done, self._counted = total, 0, self._clock()

    def doing(self, label: str) -> None:
        """Set the name of the current stage."""
        self._label = label

    def advance(self, count: int = 1) -> None:
        """Add to the number of finished cases."""
        self._done, self._advanced = self._done + count, self._clock()

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Name a preparation, with its own count, until it ends."""
        outer, done, start = self._label, 0, self._clock()

        def step() -> None:
            nonlocal done
            done += 1
            left = (self._clock() - start) / done * (total - done)
            self._label = f"{label}, {done} of {total}, about {format_time(left)} for the rest"

        self._label = label
        try:
            yield step
        finally:
            self._label = outer

    def line(self) -> str:
        """Return the present line.

        The time left counts down from the last finished case, because cases that are edited together finish together.
        It is left out when it has passed.
        """
        now = self._clock()
        parts = [self._label]
        if self._total:
            parts.append(f"{self._done} of {self._total} done")
        parts.append(f"{format_time(now - self._start)} so far")
        if 0 < self._done < self._total:
            left = (self._advanced - self._counted) / self._done * (self._total - self._done) - (now - self._advanced)
            if left > 0:
                parts.append(f"about {format_time(left)} left")
        return "knbench: " + ", ".join(parts)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            print(self.line(), file=self._stream, flush=True)


def format_time(seconds: float) -> str:
    """Format a time with the unit that suits it.

    >>> format_time(42.4), format_time(150), format_time(3 * 3600 + 125)
    ('42 s', '2 min 30 s', '3 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
