"""Figures as SVG, the same bytes for the same numbers: legible in print and on a phone, and without colour vision."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..core.errors import KnbenchError
from ..scoring.criteria import CRITERIA

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which people with every kind of colour vision tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CURVES = ("reliability", "paraphrase", "symmetry", "synonym", "neighbourhood", "unrelated")
COLUMNS = 3


@contextmanager
def style() -> Iterator[Any]:
    """``with style() as plt: ...``: matplotlib with the project's looks, and every figure closed in the end."""
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


def svg_of(figure: Any) -> str:
    """Return a matplotlib figure as SVG text without a date."""
    out = io.StringIO()
    figure.canvas.print_svg(out, metadata={"Date": None})  # savefig draws twice, for canvases that need it
    return out.getvalue()


def retention_figure(results: Sequence[Mapping[str, Any]], measure: str = "success") -> str:
    """Draw what becomes of sequential edits: each criterion and each drift task against the number of edits.

    Solid lines with their 95% band: all cases so far, measured after so many edits. Dashed: each right after its own.

    Raises:
        KnbenchError: a result is not of sequential edits, or the results are of several tasks.
    """
    if not results:
        raise KnbenchError("no result to draw")
    for result in results:
        if "curve" not in result:
            name = f"{result['editor']['name']} on {result['task']['name']}"
            raise KnbenchError(
                f"the result of {name} is not of sequential edits; make one with: knbench run --sequential N"
            )
    tasks = sorted({result["task"]["name"] for result in results})
    if len(tasks) > 1:
        raise KnbenchError(f"one figure shows one task; these are of {', '.join(tasks)}")
    shown = [c for c in CURVES if any(_points(r, "now", c, measure) for r in results)]
    drifting = list(dict.fromkeys(t["task"] for r in results for t in r.get("drift", {"tasks": []})["tasks"]))
    panels = len(shown) + len(drifting)
    rows = math.ceil(panels / COLUMNS)
    with style() as plt:
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(10.5, 3 * rows), squeeze=False, layout="constrained")
        flat = list(axes.flat)
        for axis in flat[panels:]:
            axis.set_visible(False)
        for axis, criterion in zip(flat, shown, strict=False):
            axis.set_title(CRITERIA[criterion].title)
            axis.set_ylim(-3, 103)
            axis.set_ylabel(f"{measure}, %")
            for number, result in enumerate(results):
                _draw_curve(axis, result, criterion, measure, number)
        for axis, name in zip(flat[len(shown) :], drifting, strict=False):
            for number, result in enumerate(results):
                _draw_drift(axis, result, name, number)
        for axis in flat[:panels]:
            axis.set_xlabel("edits")
        handles, labels = flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(results), frameon=False)
        return svg_of(figure)


def _points(result: Mapping[str, Any], when: str, criterion: str, measure: str) -> list[tuple[int, Mapping[str, Any]]]:
    return [
        (point["edits"], row)
        for point in result["curve"]
        for row in point[when]
        if (row["criterion"], row["measure"]) == (criterion, measure)
    ]


def look(number: int) -> dict[str, Any]:
    """Return the colour and marker of the n-th of several series; the first 49 differ."""
    shift = number // len(PALETTE)
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[(number + shift) % len(MARKERS)],
        "markersize": 5,
    }


def _draw_curve(axis: Any, result: Mapping[str, Any], criterion: str, measure: str, number: int) -> None:
    now = _points(result, "now", criterion, measure)
    at, values = [edits for edits, _ in now], [100 * row["value"] for _, row in now]
    axis.plot(at, values, label=result["editor"]["name"], **look(number))
    sure = [(edits, row) for edits, row in now if row["low"] is not None]
    axis.fill_between(
        [edits for edits, _ in sure],
        [100 * row["low"] for _, row in sure],
        [100 * row["high"] for _, row in sure],
        color=PALETTE[number % len(PALETTE)],
        alpha=0.15,
        linewidth=0,
    )
    then = _points(result, "immediate", criterion, measure)
    axis.plot(
        [edits for edits, _ in then],
        [100 * row["value"] for _, row in then],
        color=PALETTE[number % len(PALETTE)],
        linestyle="--",
        linewidth=1,
    )


def _draw_drift(axis: Any, result: Mapping[str, Any], name: str, number: int) -> None:
    found = next((t for t in result.get("drift", {"tasks": []})["tasks"] if t["task"] == name), None)
    if found is None:
        return
    perplexity = found["metric"] == "nll"
    axis.set_title("Perplexity" if perplexity else name.removeprefix("knbench_").replace("_", " "))
    axis.set_ylabel("of held-out text" if perplexity else found["metric"])
    points = [{"edits": 0, "difference": 0.0, "low": None, "high": None}, *found["points"]]
    shown = [
        {key: None if point[key] is None else found["before"] + point[key] for key in ("difference", "low", "high")}
        for point in points
    ]
    if perplexity:
        shown = [{key: None if v is None else math.exp(min(v, 50)) for key, v in point.items()} for point in shown]
        heights = [point["difference"] or 0.0 for point in shown]
        if max(heights) > 10 * heights[0]:
            axis.set_yscale("log")
    elif found["metric"] == "acc":  # a share, whatever an interval of differences allows
        shown = [{key: None if v is None else min(1.0, max(0.0, v)) for key, v in point.items()} for point in shown]
    at = [point["edits"] for point in points]
    axis.plot(at, [point["difference"] for point in shown], label=result["editor"]["name"], **look(number))
    sure = [(edits, point) for edits, point in zip(at, shown, strict=True) if point["low"] is not None]
    axis.fill_between(
        [edits for edits, _ in sure],
        [point["low"] for _, point in sure],
        [point["high"] for _, point in sure],
        color=PALETTE[number % len(PALETTE)],
        alpha=0.15,
        linewidth=0,
    )


# --- analyses ----------------------------------------------------------------------------------------------------
