"""How numbers look: percent for shares, with their interval and what it was taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..benchmark.scoring.criteria import MEASURES

INTERVALS = {
    "wilson": "Wilson",
    "wilson-effective": "Wilson with the effective number of cases",
    "t": "Student's t",
    "bca": "BCa bootstrap",
    "percentile": "bootstrap",
    "delta": "delta method",
}


@dataclass(frozen=True)
class Cell:
    """One number of a board: percent for shares, with its interval.

    Attributes:
        order: the plain number, by which a table is sorted.
        plain: as ``text``, for machines: what is saved, and what filters compare with.
    """

    text: str
    low: str
    high: str
    width: float | None
    note: str
    order: float
    plain: str


def cell(row: Mapping[str, Any] | None, measure: str) -> Cell | None:
    """Format one number: of a summary, or any mapping with its value, interval, cases and probes or tasks."""
    if row is None:
        return None
    share = MEASURES[measure].share
    over = f"{row['probes']} probes" if "probes" in row else f"{row['tasks']} tasks"
    note = f"{row['cases']} cases, {over}"
    if row["low"] is None:
        low = high = ""
        note += "; no interval can be given"
    else:
        low, high = number(row["low"], share), number(row["high"], share)
        note += f"; 95% interval, {INTERVALS[row['interval']]}"
    value = float(row["value"])
    return Cell(
        number(value, share),
        low,
        high,
        bar(value, share),
        note,
        value,
        number(value, share).replace("\N{MINUS SIGN}", "-"),
    )


def number(value: float, share: bool) -> str:
    """Return a share as percent with one decimal, another quantity with three."""
    return (f"{100 * value:.1f}" if share else f"{value:.3f}").replace("-", "\N{MINUS SIGN}")


def bar(value: float, share: bool) -> float | None:
    """Return the length of a cell's bar in percent, None for what is no share."""
    return round(100 * min(1.0, max(0.0, value)), 1) if share else None


def signed(value: float, share: bool) -> str:
    """Return a difference with its sign, in percentage points for shares."""
    return (f"{100 * value:+.1f}" if share else f"{value:+.3f}").replace("-", "\N{MINUS SIGN}")


def p_value(value: float | None) -> str:
    """Return a p-value in as many digits as it deserves."""
    return "" if value is None else "<.001" if value < 0.001 else f"{value:.3f}"
