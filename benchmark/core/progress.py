"""The interface through which a run reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Reporter:
    """Receives the progress of a run. This base class ignores it."""

    def begin(self, total: int) -> None:
        """Start a progress bar of ``total`` cases."""

    def doing(self, label: str) -> None:
        """Display the name of the current stage."""

    def advance(self, count: int = 1) -> None:
        """Advance the progress bar by ``count`` cases."""

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a separate bar for a long preparation: ``with reporter.stage("reading", 10) as step: step()``.

        Args:
            label: the label of the bar.
            total: the number of calls of ``step`` that complete the bar.
        """
        del label, total
        yield lambda: None
