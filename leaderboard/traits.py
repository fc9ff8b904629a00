"""Strengths and weaknesses of a method in words, computed from its place among the other methods of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ..benchmark.results.edit_scores import ScoredMethod
from ..benchmark.scoring.criteria import CRITERIA
from .cells import format_seconds
from .standings import Standing, Standings

MIN_METHODS = 4
"""Minimum number of methods with a number, for a statement about it."""
MAX_TRAITS = 4
"""Maximum number of strengths and of weaknesses."""


@dataclass(frozen=True)
class Traits:
    """Sentences on a method, the most extreme ones first."""

    strengths: Sequence[str]
    weaknesses: Sequence[str]


@dataclass(frozen=True)
class _Place:
    """The place of a method by one number.

    Attributes:
        better: share of the other methods that are strictly better; ``worse`` likewise.
    """

    better: float
    worse: float
    words: str


def traits_of(method: str, found: Standings) -> Traits:
    """Return what a method is among the best and the worst at, without the controls.

    A strength is a number that at most a quarter of the other methods exceed and at least half of them do not reach; a
    weakness is the reverse.
    """
    rows = [row for row in found.rows if row.scored and row.kind != "control"]
    own = next((row for row in rows if row.method == method), None)
    if own is None or len(rows) < MIN_METHODS:
        return Traits((), ())
    places = [place for values, name, form, less in _numbers(rows) if (place := _place(own, values, name, form, less))]
    strengths = [place for place in places if place.better <= 0.25 and place.worse >= 0.5]
    weaknesses = [place for place in places if place.worse <= 0.25 and place.better >= 0.5]
    return Traits(
        [place.words for place in sorted(strengths, key=lambda p: (p.better, -p.worse))[:MAX_TRAITS]],
        [place.words for place in sorted(weaknesses, key=lambda p: (p.worse, -p.better))[:MAX_TRAITS]],
    )


_Form = Callable[[float], str]


def _numbers(rows: Sequence[Standing]) -> list[tuple[Mapping[str, float], str, _Form, bool]]:
    """Return numbers by method, with their name, their format and whether less is better."""

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def of_score(read: Callable[[ScoredMethod], float | None]) -> dict[str, float]:
        return {row.method: value for row in rows if row.scored and (value := read(row.scored)) is not None}

    families = sorted({name for row in rows if row.scored for name in row.scored.families})
    kept = [name for name in CRITERIA if any(name in row.scored.kept for row in rows if row.scored)]
    return [
        (of_score(lambda s: s.value), "edit score", percent, False),
        *((of_score(lambda s, n=name: s.families.get(n)), f"gain on {name}", percent, False) for name in families),  # type: ignore[misc]
        *((of_score(lambda s, n=name: s.kept.get(n)), f"{name} kept", percent, False) for name in kept),  # type: ignore[misc]
        (
            {row.method: row.seconds for row in rows if row.seconds is not None},
            "seconds per edit",
            format_seconds,
            True,
        ),
    ]


def _place(own: Standing, values: Mapping[str, float], name: str, form: _Form, less: bool) -> _Place | None:
    """Return the place of a method by some numbers; None without a number, or with too few others."""
    if own.method not in values or len(values) < MIN_METHODS:
        return None
    value = values[own.method]
    others = [other for method, other in values.items() if method != own.method]
    higher = sum(other > value + 1e-9 for other in others)
    lower = sum(other < value - 1e-9 for other in others)
    better, worse = (lower, higher) if less else (higher, lower)
    equal = len(others) - higher - lower
    place = f"place {better + 1} of {len(values)}" + (f", with {equal} others" if equal > 1 else "")
    words = f"{name[0].upper()}{name[1:]}: {form(value)}, {place} (median {form(median(values.values()))})"
    return _Place(better / len(others), worse / len(others), words)
