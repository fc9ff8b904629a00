"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Reporter:
    """Receives what happens during a run; this one keeps silent."""

    def begin(self, total: int) -> None:
        """Announce the number of cases to come."""

    def doing(self, what: str) -> None:
        """Name the stage that begins."""

    def advance(self, count: int = 1) -> None:
        """Say that cases are done."""

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """``with reporter.stage("reading", 10) as step: step()`` shows a long preparation with a bar of its own."""
        del what, total
        yield lambda: None
