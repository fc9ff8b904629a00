"""The board's figures: what a method pays for the quality of its edits, and how it does on each criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.results.figures import look, style, svg_of
from ..benchmark.scoring.criteria import CRITERIA
from .boards import Board, BoardRow

QUALITY = ("reliability", "paraphrase", "symmetry", "synonym")
"""What edit quality is the harmonic mean of, as far as a board has it."""
MOST = 14
"""Methods that a legend can hold; of more, only those on a front are named."""


@dataclass(frozen=True)
class Cost:
    """What is set against quality.

    Attributes:
        more_is_better: which end is the good one.
        values: by method.
    """

    title: str
    more_is_better: bool
    log: bool
    values: Mapping[str, float]


def quality(line: BoardRow) -> float | None:
    """Return the harmonic mean of what a method's edits shall reach, in percent."""
    found = [line.raw[name]["value"] for name in QUALITY if name in line.raw]
    if not found:
        return None
    return 0.0 if min(found) <= 0 else 100 * len(found) / sum(1 / value for value in found)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the points that no other beats in both numbers, more being better, from left to right.

    >>> front({"a": (1, 3), "b": (2, 2), "c": (1, 2), "d": (3, 1)})
    ['a', 'b', 'd']
    """
    best = [
        name
        for name, (x, y) in points.items()
        if not any((u >= x and v >= y) and (u > x or v > y) for u, v in points.values())
    ]
    return sorted(best, key=lambda name: points[name])


def tradeoff_figure(board: Board, drift: Mapping[str, float]) -> str:
    """Draw edit quality against locality, drift (where measured) and seconds, with the Pareto front of each.

    Args:
        board: means over tasks, or one task.
        drift: by method, how much perplexity rose, in nats per token.
    """
    lines = {line.method: line for line in board.lines}
    good = {name: q for name, line in lines.items() if (q := quality(line)) is not None}
    kept = {n: 100 * line.raw["neighbourhood"]["value"] for n, line in lines.items() if "neighbourhood" in line.raw}
    seconds = {n: max(line.seconds, 1e-3) for n, line in lines.items() if line.seconds is not None}
    costs = [
        Cost("Neighbourhood kept, %", True, False, kept),
        Cost("Seconds an edit", False, True, seconds),
        Cost("Drift of perplexity, nats a token", False, False, drift),
    ]
    costs = [cost for cost in costs if len(set(cost.values) & set(good)) > 1]
    if not costs:
        return ""
    named = list(good)
    if len(named) > MOST:
        fronts = [front(_signed(cost, good)) for cost in costs]
        named = [name for name in good if any(name in found for found in fronts)][:MOST]
    with style() as plt:
        figure, axes = plt.subplots(1, len(costs), figsize=(4.6 * len(costs), 4.2), squeeze=False, layout="constrained")
        for axis, cost in zip(axes.flat, costs, strict=True):
            _draw_cost(axis, cost, good, named)
        axes[0, 0].set_ylabel("Edit quality, %")
        handles: dict[str, Any] = {}
        for axis in axes.flat:
            found, labels = axis.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(7, len(handles)), frameon=False
        )
        return svg_of(figure)


def _signed(cost: Cost, good: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    sign = 1 if cost.more_is_better else -1
    return {name: (sign * cost.values[name], good[name]) for name in good if name in cost.values}


def _draw_cost(axis: Any, cost: Cost, good: Mapping[str, float], named: Sequence[str]) -> None:
    for name in good:
        if name in cost.values:
            known = name in named
            kind: dict[str, Any] = (
                look(named.index(name)) if known else {"color": "#b0b0b0", "marker": ".", "markersize": 4}
            )
            axis.plot([cost.values[name]], [good[name]], linestyle="", label=name if known else None, **kind)
    best = front(_signed(cost, good))
    axis.plot([cost.values[n] for n in best], [good[n] for n in best], color="#555555", linewidth=1, zorder=1)
    axis.set_xlabel(cost.title)
    axis.set_ylim(-4, 104)
    if cost.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    if not cost.more_is_better:
        axis.invert_xaxis()  # up and to the right is good in every panel


def profile_figure(board: Board) -> str:
    """Draw every criterion beside the others, a line a method; of many methods the first ones."""
    names = [name for name, _, _ in board.columns if name in CRITERIA and name not in ("fluency", "extension")]
    lines = [line for line in board.lines if line.raw][:MOST]
    if len(names) < 3 or len(lines) < 2:
        return ""
    titles = {name: title for name, title, _ in board.columns}
    with style() as plt:
        figure, axis = plt.subplots(figsize=(9.2, 4.2), layout="constrained")
        for number, line in enumerate(lines):
            values = [100 * line.raw[name]["value"] if name in line.raw else float("nan") for name in names]
            axis.plot(range(len(names)), values, label=line.method, linewidth=1.4, **look(number))
        axis.set_xticks(range(len(names)), [titles[name] for name in names], rotation=20, ha="right")
        axis.set_ylim(-4, 104)
        axis.set_ylabel("%")
        figure.legend(loc="outside right upper", frameon=False)
        return svg_of(figure)
