"""Records which parts of a data set are skipped, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class SourceLocation:
    """The location of a record in its source.

    Attributes:
        index: zero-based position of the record.
        label: the location as messages print it, for example "line 17".
    """

    index: int
    label: str


class SkipRecord(Exception):
    """Raised when a record cannot become a case.

    The message is the reason. Reasons are counted, therefore a message names fields but quotes no data.
    """


class SkipReport:
    """Counts the skipped records and probes of a data set by reason.

    Attributes:
        skipped: number of skipped records.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._reasons: Counter[str] = Counter()
        self._first: tuple[int, str] | None = None

    def skip(self, location: SourceLocation, reason: str) -> None:
        """Count a record that does not become a case."""
        self.skipped += 1
        self._count(location, reason)

    def skip_probe(self, location: SourceLocation, reason: str) -> None:
        """Count a probe that is dropped from a record which becomes a case."""
        self._count(location, f"probe skipped: {reason}")

    def _count(self, location: SourceLocation, reason: str) -> None:
        self._reasons[reason] += 1
        # All lines are parsed before the first record is converted, so the order of calls is not the order of records.
        if self._first is None or location.index < self._first[0]:
            self._first = (location.index, f"{location.label}: {reason}")

    @property
    def reasons(self) -> dict[str, int]:
        """Number of skipped records or probes by reason, sorted by reason.

        Reasons that start with "probe skipped" count single probes. The other counts add up to ``skipped``.
        """
        return dict(sorted(self._reasons.items()))

    @property
    def first(self) -> str | None:
        """Location and reason of the first skip, for example "line 17: not JSON"; None if nothing was skipped."""
        return self._first[1] if self._first else None
