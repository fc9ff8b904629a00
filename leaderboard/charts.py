"""Geometry of the charts that pages draw as inline SVG: scatter plots of methods and curves over edits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..benchmark.core.documents import Result
from .cells import format_bytes, format_seconds
from .paths import method_anchor
from .standings import Standing, Standings

WIDTH, HEIGHT = 560, 420
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 14, 42
"""Size of a chart and its margins, in pixels of its own coordinates."""
CONTOURS = (10, 25, 50, 75)
"""Edit scores that have a contour, in percent."""
MAX_LABELS = 18
"""Maximum number of points with a name beside them."""
MAX_INTERVALS = 60
"""Maximum number of points with their intervals."""
MAX_CURVES = 8
"""Maximum number of methods in a chart of curves."""
CHARACTER, LINE = 6.4, 13.0
"""Width and height of a character of a label."""

Box = tuple[float, float, float, float]
CurvePoint = tuple[int, float, float | None, float | None]
"""Number of edits, value, and the ends of its interval."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its position in pixels and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Point:
    """A method in a scatter plot. Positions are in pixels.

    Attributes:
        anchor: id of the method's row.
        kind: what the method changes, or ``control``.
        title: its numbers in words.
        across: ends of the horizontal interval, or None; ``along`` those of the vertical one.
        label: position and ``text-anchor`` of its name; None without a place for it.
    """

    method: str
    anchor: str
    kind: str
    x: float
    y: float
    title: str
    across: tuple[float, float] | None = None
    along: tuple[float, float] | None = None
    label: tuple[float, float, str] | None = None


@dataclass(frozen=True)
class Contour:
    """A curve of equal edit score: SVG path and position of its label."""

    level: int
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Scatter:
    """A scatter plot of methods.

    Attributes:
        name: identifier in the page.
        title: heading.
        note: how to read it.
    """

    name: str
    title: str
    note: str
    x_title: str
    y_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]
    contours: Sequence[Contour] = ()


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its name, its path, its points as (x, y, words), and the band of its interval or nothing."""

    name: str
    path: str
    points: Sequence[tuple[float, float, str]]
    band: str


@dataclass(frozen=True)
class CurveChart:
    """Curves over the number of sequential edits."""

    title: str
    note: str
    y_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve]


def _across(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _along(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _percent_ticks(place: Callable[[float], float]) -> list[Tick]:
    return [Tick(place(value / 100), str(value)) for value in range(0, 101, 20)]


# --- scatter plots -----------------------------------------------------------------------------------------------


def gain_scatter(found: Standings) -> Scatter | None:
    """Return gain against preservation; None for fewer than two methods with an edit score."""
    rows = [row for row in found.rows if row.scored]
    if len(rows) < 2:
        return None
    return Scatter(
        name="gain",
        title="Gain and preservation",
        note="Up and to the right is better. A line joins points of equal edit score.",
        x_title="Gain, %",
        y_title="Preservation, %",
        x_ticks=_percent_ticks(_across),
        y_ticks=_percent_ticks(_along),
        points=_with_labels([_gain_point(row, len(rows) <= MAX_INTERVALS) for row in rows]),
        contours=[_contour(level) for level in CONTOURS],
    )


def _gain_point(row: Standing, intervals: bool) -> Point:
    scored = row.scored
    assert scored is not None
    across = along = None
    if intervals and scored.gain_low is not None and scored.gain_high is not None:
        across = (_across(scored.gain_low), _across(scored.gain_high))
    if intervals and scored.preservation_low is not None and scored.preservation_high is not None:
        along = (_along(scored.preservation_low), _along(scored.preservation_high))
    title = (
        f"{row.method}: edit score {100 * scored.value:.1f}, gain {100 * scored.gain:.1f}, "
        f"preservation {100 * scored.preservation:.1f}"
    )
    return Point(
        row.method, method_anchor(row.method), row.kind, _across(scored.gain), _along(scored.preservation), title,
        across, along,
    )  # fmt: skip


def _contour(level: int) -> Contour:
    gains = [level / 100 + (1 - level / 100) * step / 40 for step in range(41)]
    points = [(_across(gain), _along(level / 100 / gain)) for gain in gains]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    return Contour(level, path, _across(1.0), _along(level / 100))


def cost_scatters(found: Standings) -> list[Scatter]:
    """Return the edit score against seconds per edit, and against bytes per fact beside the weights."""
    costs: list[tuple[str, str, str, Callable[[Standing], float | None], Callable[[float], str]]] = [
        ("seconds", "Edit score and seconds", "Seconds per edit", lambda row: row.seconds, format_seconds),
        (
            "bytes",
            "Edit score and memory",
            "Bytes beside the weights per fact",
            lambda row: row.cost("bytes_per_fact") or None,
            format_bytes,
        ),
    ]
    return [chart for cost in costs if (chart := _cost_scatter(found, *cost)) is not None]


def _cost_scatter(
    found: Standings,
    name: str,
    title: str,
    x_title: str,
    cost: Callable[[Standing], float | None],
    form: Callable[[float], str],
) -> Scatter | None:
    pairs = [(row, max(value, 1e-4)) for row in found.rows if row.scored and (value := cost(row)) is not None]
    if len(pairs) < 2:
        return None
    low = math.floor(math.log10(min(value for _, value in pairs)))
    high = max(low + 1, math.ceil(math.log10(max(value for _, value in pairs))))

    def place(value: float) -> float:
        return _across((math.log10(value) - low) / (high - low))

    points = []
    for row, value in pairs:
        score = row.scored.value if row.scored else 0.0
        words = f"{row.method}: edit score {100 * score:.1f}, {x_title.casefold()} {form(value)}"
        points.append(Point(row.method, method_anchor(row.method), row.kind, place(value), _along(score), words))
    return Scatter(
        name=name,
        title=title,
        note="Up and to the left is better. The horizontal axis is logarithmic.",
        x_title=x_title,
        y_title="Edit score",
        x_ticks=[Tick(place(10.0**power), form(10.0**power)) for power in range(low, high + 1)],
        y_ticks=_percent_ticks(_along),
        points=_with_labels(points),
    )


def _with_labels(points: Sequence[Point]) -> list[Point]:
    """Place names beside the first points, where they hide neither points nor other names."""
    taken: list[Box] = [(p.x - 5, p.y - 5, p.x + 5, p.y + 5) for p in points]
    placed, count = [], 0
    for point in points:
        spot = None
        if count < MAX_LABELS:
            spot = _free_spot(point, taken)
        if spot is not None:
            box, label = spot
            taken.append(box)
            count += 1
            point = replace(point, label=label)
        placed.append(point)
    return placed


def _free_spot(point: Point, taken: Sequence[Box]) -> tuple[Box, tuple[float, float, str]] | None:
    width = CHARACTER * len(point.method)
    x, y = point.x, point.y
    spots = [
        ((x + 8, y - 7, x + 8 + width, y + 6), (x + 8, y + 4, "start")),
        ((x - 8 - width, y - 7, x - 8, y + 6), (x - 8, y + 4, "end")),
        ((x - width / 2, y - 8 - LINE, x + width / 2, y - 8), (x, y - 10, "middle")),
        ((x - width / 2, y + 8, x + width / 2, y + 8 + LINE), (x, y + 18, "middle")),
    ]
    for box, label in spots:
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            return box, label
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# --- curves ------------------------------------------------------------------------------------------------------


def retention_chart(results: Sequence[Result]) -> CurveChart | None:
    """Return the edit score of methods after each number of sequential edits; None without sequential results.

    Args:
        results: results on one task; the first :data:`MAX_CURVES` sequential ones are drawn.
    """
    sequential = [result for result in results if result.curve and any(p.edit_score for p in result.curve)]
    values = {
        result.editor.name: [
            (point.edits, score.value, score.low, score.high)
            for point in result.curve or ()
            if (score := point.edit_score)
        ]
        for result in sequential[:MAX_CURVES]
    }
    return _curve_chart("Retention", "Edit score of all edits so far, measured after the last of them.", values)


def method_chart(result: Result) -> CurveChart | None:
    """Return edit score, gain and preservation of a sequential result; None for other results."""
    scores = [(point.edits, point.edit_score) for point in result.curve or () if point.edit_score]
    values: dict[str, list[CurvePoint]] = {
        "edit score": [(n, s.value, s.low, s.high) for n, s in scores],
        "gain": [(n, s.gain, None, None) for n, s in scores],
        "preservation": [(n, s.preservation, None, None) for n, s in scores],
    }
    return _curve_chart("Retention", "All edits so far, measured after the last of them.", values)


def _curve_chart(title: str, note: str, values: Mapping[str, Sequence[CurvePoint]]) -> CurveChart | None:
    edits = sorted({point[0] for points in values.values() for point in points})
    if len(edits) < 2:
        return None
    low, high = math.log(edits[0]), math.log(edits[-1])

    def place(number: int) -> float:
        return _across((math.log(number) - low) / (high - low))

    curves = []
    for name, points in values.items():
        spots = [(place(n), _along(value), f"{name}, {n} edits: {100 * value:.1f}") for n, value, _, _ in points]
        upper = [f"{place(n)} {_along(top)}" for n, _, bottom, top in points if top is not None and bottom is not None]
        lower = [f"{place(n)} {_along(bottom)}" for n, _, bottom, _ in points if bottom is not None]
        band = "M" + "L".join([*upper, *lower[::-1]]) + "Z" if len(upper) > 1 else ""
        curves.append(Curve(name, "M" + "L".join(f"{x} {y}" for x, y, _ in spots), spots, band))
    ticks = [Tick(place(number), str(number)) for number in edits]
    return CurveChart(title, note, "%", ticks, _percent_ticks(_along), curves)
