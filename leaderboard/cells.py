"""Table cells: numbers with their interval, bar and tooltip."""

from __future__ import annotations

from dataclasses import dataclass

from ..benchmark.core.documents import SummaryRow
from ..benchmark.scoring.formatting import format_value

INTERVAL_NAMES = {
    "wilson": "Wilson",
    "wilson-effective": "Wilson with the effective number of cases",
    "t": "Student's t",
    "bca": "BCa bootstrap",
    "percentile": "bootstrap",
    "delta": "delta method",
}


@dataclass(frozen=True)
class Score:
    """A criterion or composite score of one method: on one task, or as a mean over tasks.

    Attributes:
        low: lower end of the 95% interval, or None.
        high: upper end of the 95% interval, or None.
        interval: method of the interval.
        cases: number of cases that the value is a mean over.
        probes: number of probes in these cases; None for a mean over tasks.
        tasks: number of tasks; None for the value of one task.
    """

    value: float
    low: float | None
    high: float | None
    interval: str
    cases: int
    probes: int | None = None
    tasks: int | None = None

    @classmethod
    def of_task(cls, row: SummaryRow) -> Score:
        """Return the score of one task, from a row of a result's summary."""
        return cls(row.value, row.low, row.high, row.interval, row.cases, probes=row.probes)


@dataclass(frozen=True)
class Cell:
    """One formatted number of a table.

    Attributes:
        text: the value, in percent for shares.
        low: lower end of the 95% interval; empty if there is none.
        high: upper end of the 95% interval; empty if there is none.
        bar: length of the bar in percent; None for measures that are not shares.
        note: tooltip with the number of cases and the method of the interval.
        value: the unformatted value, used for sorting.
    """

    text: str
    low: str
    high: str
    bar: float | None
    note: str
    value: float


def cell(score: Score | None, *, share: bool) -> Cell | None:
    """Format a score, in percent if it is a share. None stays None."""
    if score is None:
        return None
    note = f"{score.cases} cases, "
    note += f"{score.probes} probes" if score.probes is not None else f"{score.tasks} tasks"
    if score.low is None or score.high is None:
        low = high = ""
        note += "; no interval"
    else:
        low, high = format_value(score.low, share=share), format_value(score.high, share=share)
        note += f"; 95% interval, {INTERVAL_NAMES[score.interval]}"
    text = format_value(score.value, share=share)
    return Cell(text, low, high, bar_length(score.value, share), note, score.value)


def bar_length(value: float, share: bool) -> float | None:
    """Return the length of a cell's bar in percent; None if the value is not a share."""
    return round(100 * min(1.0, max(0.0, value)), 1) if share else None


UNITS = ("B", "kB", "MB", "GB", "TB")


def format_bytes(value: float) -> str:
    """Format a number of bytes with a decimal unit and two or three significant digits.

    >>> format_bytes(0), format_bytes(532), format_bytes(5_242_880), format_bytes(67_000_000)
    ('0 B', '532 B', '5.2 MB', '67 MB')
    """
    power = 0
    while value >= 999.5 and power + 1 < len(UNITS):
        value, power = value / 1000, power + 1
    return f"{value:.0f} {UNITS[power]}" if power == 0 or value >= 9.95 else f"{value:.1f} {UNITS[power]}"


def format_seconds(value: float) -> str:
    """Format seconds with two or three significant digits.

    >>> format_seconds(0.00121), format_seconds(0.52), format_seconds(6.654), format_seconds(75.2)
    ('0.0012', '0.52', '6.7', '75')
    """
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"
