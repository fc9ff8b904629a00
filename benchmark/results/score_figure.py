"""The figure of gain against preservation, with contours of the edit score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .controls import LIMITS
from .edit_scores import ScoredMethod
from .figures import plot_style, series_style, to_svg

CONTOURS = (10, 25, 50, 75)
"""Edit scores that have a contour, in percent."""


@dataclass(frozen=True)
class ScorePoint:
    """A method in the figure.

    Attributes:
        gain: between 0 and 1; ``gain_low`` and ``gain_high`` are its 95% interval, or None.
        preservation: between 0 and 1, with its interval likewise.
        control: whether the method is a control, which has an open marker.
    """

    method: str
    gain: float
    preservation: float
    control: bool = False
    gain_low: float | None = None
    gain_high: float | None = None
    preservation_low: float | None = None
    preservation_high: float | None = None

    @classmethod
    def of(cls, row: ScoredMethod) -> ScorePoint:
        """Return the point of a method's scores."""
        return cls(
            method=row.method,
            gain=row.gain,
            preservation=row.preservation,
            control=row.method in LIMITS,
            gain_low=row.gain_low,
            gain_high=row.gain_high,
            preservation_low=row.preservation_low,
            preservation_high=row.preservation_high,
        )


def score_figure(points: Sequence[ScorePoint], title: str = "") -> str:
    """Draw methods by gain and preservation. A contour joins points of equal edit score.

    Args:
        points: the methods, in the order of their colours and of the legend.
        title: heading of the figure, or nothing.

    Returns:
        The figure as SVG text.
    """
    with plot_style() as plt:
        figure, axis = plt.subplots(figsize=(7.6, 5.2), layout="constrained")
        axis.grid(visible=False)
        for level in CONTOURS:
            gains = [level + (100 - level) * step / 60 for step in range(61)]
            axis.plot(gains, [100 * level / gain for gain in gains], color="#b8b8b8", linewidth=1, zorder=1)
            axis.annotate(
                str(level), (100, level), xytext=(3, 0), textcoords="offset points", color="#666666", fontsize=9,
                va="center", annotation_clip=False,
            )  # fmt: skip
        for number, point in enumerate(points):
            _draw_point(axis, point, number)
        axis.set_xlim(-3, 100)
        axis.set_ylim(-3, 103)
        axis.set_xlabel("Gain, %")
        axis.set_ylabel("Preservation, %")
        if title:
            axis.set_title(title)
        figure.legend(loc="outside right upper", frameon=False)
        return to_svg(figure)


def _draw_point(axis: Any, point: ScorePoint, number: int) -> None:
    style = series_style(number)
    x, y = 100 * point.gain, 100 * point.preservation
    if point.gain_low is not None and point.gain_high is not None:
        axis.plot([100 * point.gain_low, 100 * point.gain_high], [y, y], color=style["color"], linewidth=1, zorder=2)
    if point.preservation_low is not None and point.preservation_high is not None:
        ends = [100 * point.preservation_low, 100 * point.preservation_high]
        axis.plot([x, x], ends, color=style["color"], linewidth=1, zorder=2)
    face = {"markerfacecolor": "white"} if point.control else {}
    label = f"{point.method} (control)" if point.control else point.method
    axis.plot([x], [y], linestyle="", zorder=3, label=label, clip_on=False, **{**style, "markersize": 7, **face})
