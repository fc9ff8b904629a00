"""What a run tells while it goes on."""

from __future__ import annotations


class Reporter:
    """Receives what happens during a run; this one keeps silent."""

    def begin(self, total: int) -> None:
        """Announce the number of cases to come."""

    def doing(self, what: str) -> None:
        """Name the stage that begins."""

    def advance(self, count: int = 1) -> None:
        """Say that cases are done."""
