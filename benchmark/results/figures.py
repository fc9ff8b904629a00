"""Figures of sequential runs as SVG.

The same numbers give the same bytes. The figures are legible in print, on a phone and without colour vision.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ..core.documents import DriftTask, Result, SummaryRow
from ..core.errors import KnbenchError
from ..scoring.criteria import CRITERIA
from ..scoring.formatting import drift_title, perplexity

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours of Okabe and Ito, which can be told apart with every kind of colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CURVE_CRITERIA = ("reliability", "paraphrase", "symmetry", "synonym", "neighbourhood", "unrelated")
"""Criteria that have a panel, in this order."""
COLUMNS = 3


@contextmanager
def plot_style() -> Iterator[Any]:
    """Yield ``matplotlib.pyplot`` with the style of the project, and close every figure at the end."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(
        {
            "svg.hashsalt": "knbench",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#d9d9d9",
        }
    ):
        yield plt
        plt.close("all")


def to_svg(figure: Any) -> str:
    """Return a matplotlib figure as SVG text without a date."""
    out = io.StringIO()
    # savefig draws every figure twice, which the SVG canvas does not need.
    figure.canvas.print_svg(out, metadata={"Date": None})
    return out.getvalue()


def series_style(number: int) -> dict[str, Any]:
    """Return the colour and marker of a series by its position. The first 49 combinations differ."""
    shift = number // len(PALETTE)
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[(number + shift) % len(MARKERS)],
        "markersize": 5,
    }


def retention_figure(results: Sequence[Result], measure: str = "success") -> str:
    """Draw the edit score, each criterion and each drift task of sequential runs against the number of edits.

    Solid lines with a 95% band show all cases up to a number of edits, measured after these edits. Dashed lines show
    each case right after its own edit.

    Args:
        results: results of sequential runs on one task, one per editor.
        measure: the measure of the criteria.

    Returns:
        The figure as SVG text.

    Raises:
        KnbenchError: there is no result, a result is not of a sequential run, or the results are of several tasks.
    """
    if not results:
        raise KnbenchError("no result to draw")
    for result in results:
        if result.curve is None:
            raise KnbenchError(
                f"the result of {result.editor.name} on {result.task.name} is not of sequential edits; "
                "create one with: knbench run --sequential N"
            )
    tasks = sorted({result.task.name for result in results})
    if len(tasks) > 1:
        raise KnbenchError(f"a figure shows one task, but the results are of {', '.join(tasks)}; select one task")
    criteria = [c for c in CURVE_CRITERIA if any(_curve_rows(r, "now", c, measure) for r in results)]
    drift_tasks = list(dict.fromkeys(task.task for r in results if r.drift for task in r.drift.tasks))
    scored = any(point.edit_score for result in results for point in result.curve or ())
    panels = len(criteria) + len(drift_tasks) + scored
    rows = math.ceil(panels / COLUMNS)
    with plot_style() as plt:
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(10.5, 3 * rows), squeeze=False, layout="constrained")
        flat = list(axes.flat)
        for axis in flat[panels:]:
            axis.set_visible(False)
        for axis in flat[:panels]:
            axis.set_xlabel("edits")
        if scored:
            axis = flat.pop(0)
            axis.set_title("Edit score")
            axis.set_ylim(-3, 103)
            for number, result in enumerate(results):
                _draw_edit_score(axis, result, number)
        first = axes.flat[0]
        for axis, criterion in zip(flat, criteria, strict=False):
            axis.set_title(CRITERIA[criterion].title)
            axis.set_ylim(-3, 103)
            axis.set_ylabel(f"{measure}, %")
            for number, result in enumerate(results):
                _draw_curve(axis, result, criterion, measure, number)
        for axis, name in zip(flat[len(criteria) :], drift_tasks, strict=False):
            for number, result in enumerate(results):
                _draw_drift(axis, result, name, number)
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(results), frameon=False)
        return to_svg(figure)


def _curve_rows(
    result: Result, when: Literal["immediate", "now"], criterion: str, measure: str
) -> list[tuple[int, SummaryRow]]:
    """Return (number of edits, summary row) of every checkpoint that has the criterion by the measure."""
    return [
        (point.edits, row)
        for point in result.curve or ()
        for row in (point.now if when == "now" else point.immediate)
        if (row.criterion, row.measure) == (criterion, measure)
    ]


def _draw_curve(axis: Any, result: Result, criterion: str, measure: str, number: int) -> None:
    now = _curve_rows(result, "now", criterion, measure)
    edits, values = [n for n, _ in now], [100 * row.value for _, row in now]
    axis.plot(edits, values, label=result.editor.name, **series_style(number))
    band = [(n, 100 * row.low, 100 * row.high) for n, row in now if row.low is not None and row.high is not None]
    _draw_band(axis, band, number)
    immediate = _curve_rows(result, "immediate", criterion, measure)
    axis.plot(
        [n for n, _ in immediate],
        [100 * row.value for _, row in immediate],
        color=PALETTE[number % len(PALETTE)],
        linestyle="--",
        linewidth=1,
    )


def _draw_edit_score(axis: Any, result: Result, number: int) -> None:
    points = [(point.edits, point.edit_score) for point in result.curve or () if point.edit_score]
    axis.plot(
        [edits for edits, _ in points],
        [100 * score.value for _, score in points],
        label=result.editor.name,
        **series_style(number),
    )
    band = [(n, 100 * s.low, 100 * s.high) for n, s in points if s.low is not None and s.high is not None]
    _draw_band(axis, band, number)


def _draw_band(axis: Any, intervals: Sequence[tuple[int | None, float, float]], number: int) -> None:
    """Draw intervals, each with its number of edits, as a band in the colour of a series."""
    axis.fill_between(
        [edits for edits, _, _ in intervals],
        [low for _, low, _ in intervals],
        [high for _, _, high in intervals],
        color=PALETTE[number % len(PALETTE)],
        alpha=0.15,
        linewidth=0,
    )


@dataclass(frozen=True)
class _DriftValue:
    """Value of a drift task after some edits, on the scale of its panel."""

    edits: int | None
    value: float
    low: float | None
    high: float | None


def _drift_values(task: DriftTask) -> list[_DriftValue]:
    """Return the values of a drift task from the unedited model on, on the scale of its panel."""

    def on_scale(difference: float) -> float:
        value = task.before + difference
        if task.metric == "nll":
            return perplexity(value)
        # The interval of a difference can exceed the range of an accuracy.
        return min(1.0, max(0.0, value)) if task.metric == "acc" else value

    values = [_DriftValue(0, on_scale(0.0), None, None)]
    for point in task.points:
        low, high = (None if end is None else on_scale(end) for end in (point.low, point.high))
        values.append(_DriftValue(point.edits, on_scale(point.difference), low, high))
    return values


def _draw_drift(axis: Any, result: Result, name: str, number: int) -> None:
    tasks = result.drift.tasks if result.drift else ()
    task = next((task for task in tasks if task.task == name), None)
    if task is None:
        return
    is_perplexity = task.metric == "nll"
    axis.set_title("Perplexity" if is_perplexity else drift_title(task))
    axis.set_ylabel("of held-out text" if is_perplexity else task.metric)
    points = _drift_values(task)
    if is_perplexity and max(point.value for point in points) > 10 * points[0].value:
        axis.set_yscale("log")
    axis.plot(
        [point.edits for point in points],
        [point.value for point in points],
        label=result.editor.name,
        **series_style(number),
    )
    band = [(p.edits, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    _draw_band(axis, band, number)
