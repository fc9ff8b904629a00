"""Figures of a board: gain against preservation, the edit score against its costs, and the parts of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.results.figures import plot_style, series_style, to_svg
from ..benchmark.results.score_figure import ScorePoint, score_figure
from .board_tables import COMPOSITE_TITLES, Board

MAX_SERIES = 14
"""Maximum number of methods in a legend. Of more methods, only those on a Pareto front are named."""


@dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Attributes:
        path: path of the SVG file, relative to the site.
        svg: content of the file.
        title: heading.
        note: caption.
    """

    path: str
    svg: str
    title: str
    note: str


@dataclass(frozen=True)
class Cost:
    """A quantity that the edit score is plotted against.

    Attributes:
        title: label of the axis.
        more_is_better: whether larger values are better.
        log: whether the axis is logarithmic.
        values: by method.
    """

    title: str
    more_is_better: bool
    log: bool
    values: Mapping[str, float]


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the points that no other point dominates, from left to right. Larger is better in both coordinates.

    >>> pareto_front({"a": (1, 3), "b": (2, 2), "c": (1, 2), "d": (3, 1)})
    ['a', 'b', 'd']
    """
    front = [
        name
        for name, (x, y) in points.items()
        if not any((u >= x and v >= y) and (u > x or v > y) for u, v in points.values())
    ]
    return sorted(front, key=lambda name: points[name])


def gain_figure(board: Board) -> str:
    """Draw each method by gain and preservation.

    Returns:
        SVG text; empty for fewer than two methods with an edit score.
    """
    rows = [row for row in board.rows if row.scored][:MAX_SERIES]
    if len(rows) < 2:
        return ""
    return score_figure(
        [
            ScorePoint(
                method=row.method,
                gain=row.scored.gain,
                preservation=row.scored.preservation,
                control=row.kind == "control",
                gain_low=row.scored.gain_low,
                gain_high=row.scored.gain_high,
                preservation_low=row.scored.preservation_low,
                preservation_high=row.scored.preservation_high,
            )
            for row in rows
            if row.scored
        ]
    )


def tradeoff_figure(board: Board, drift: Mapping[str, float]) -> str:
    """Draw the edit score against seconds per edit and drift, with the Pareto front of each.

    Args:
        board: means over tasks, or one task.
        drift: by method, the increase of perplexity in nats per token.

    Returns:
        SVG text; empty if no cost was measured for at least two methods.
    """
    rows = {row.method: row for row in board.rows}
    qualities = {name: 100 * row.scored.value for name, row in rows.items() if row.scored}
    seconds = {n: max(row.seconds, 1e-3) for n, row in rows.items() if row.seconds is not None}
    costs = [
        Cost("Seconds per edit", False, True, seconds),
        Cost("Perplexity drift, nats per token", False, False, drift),
    ]
    costs = [cost for cost in costs if len(set(cost.values) & set(qualities)) > 1]
    if not costs:
        return ""
    named = list(qualities)
    if len(named) > MAX_SERIES:
        fronts = [pareto_front(_oriented(cost, qualities)) for cost in costs]
        named = [name for name in qualities if any(name in front for front in fronts)][:MAX_SERIES]
    with plot_style() as plt:
        figure, axes = plt.subplots(1, len(costs), figsize=(4.6 * len(costs), 4.2), squeeze=False, layout="constrained")
        for axis, cost in zip(axes.flat, costs, strict=True):
            _draw_cost(axis, cost, qualities, named)
        axes[0, 0].set_ylabel("Edit score")
        handles: dict[str, Any] = {}
        for axis in axes.flat:
            series, labels = axis.get_legend_handles_labels()
            handles |= dict(zip(labels, series, strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(7, len(handles)), frameon=False
        )
        return to_svg(figure)


def _oriented(cost: Cost, qualities: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return (cost, quality) of each method that has both, with the cost's sign changed if less is better."""
    sign = 1 if cost.more_is_better else -1
    return {name: (sign * cost.values[name], qualities[name]) for name in qualities if name in cost.values}


def _draw_cost(axis: Any, cost: Cost, qualities: Mapping[str, float], named: Sequence[str]) -> None:
    for name in qualities:
        if name in cost.values:
            is_named = name in named
            marker: dict[str, Any] = (
                series_style(named.index(name)) if is_named else {"color": "#b0b0b0", "marker": ".", "markersize": 4}
            )
            label = name if is_named else None
            axis.plot([cost.values[name]], [qualities[name]], linestyle="", label=label, **marker)
    front = pareto_front(_oriented(cost, qualities))
    axis.plot([cost.values[n] for n in front], [qualities[n] for n in front], color="#555555", linewidth=1, zorder=1)
    axis.set_xlabel(cost.title)
    axis.set_ylim(-4, 104)
    if cost.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    if not cost.more_is_better:
        axis.invert_xaxis()  # the upper right corner is best in every panel


def profile_figure(board: Board) -> str:
    """Draw the columns of a board, of each method as a line. Only the first :data:`MAX_SERIES` methods are drawn.

    Returns:
        SVG text; empty for fewer than three criteria or two methods.
    """
    columns = [c for c in board.columns if c.name not in ("fluency", "extension", *COMPOSITE_TITLES)]
    rows = [row for row in board.rows if row.scores][:MAX_SERIES]
    if len(columns) < 3 or len(rows) < 2:
        return ""
    with plot_style() as plt:
        figure, axis = plt.subplots(figsize=(9.2, 4.2), layout="constrained")
        for number, row in enumerate(rows):
            values = [100 * row.scores[c.name].value if c.name in row.scores else float("nan") for c in columns]
            axis.plot(range(len(columns)), values, label=row.method, linewidth=1.4, **series_style(number))
        axis.set_xticks(range(len(columns)), [column.title for column in columns], rotation=20, ha="right")
        axis.set_ylim(-4, 104)
        axis.set_ylabel("%")
        figure.legend(loc="outside right upper", frameon=False)
        return to_svg(figure)
