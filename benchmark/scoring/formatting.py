"""Numbers and settings of results as text, shared by the terminal and the site."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.documents import DriftInfo, DriftPoint, DriftTask, RunProtocol

MINUS = "\N{MINUS SIGN}"
MAX_NLL = 50.0
"""Perplexities are computed from at most this many nats per token, to avoid overflow."""
SCORE_EXPLANATION = (
    "Edit score = gain x preservation (kept), with its 95% interval: 0 for no edit, 100 for an ideal one."
)
SPLIT_NOTES = {"test": "", "tune": "tuning cases only", "all": "tuning cases included"}
"""Note on each split; the default split has none."""


def format_value(value: float, *, share: bool) -> str:
    """Format a share as percent with one decimal, another quantity with three decimals.

    >>> format_value(0.256, share=True), format_value(-0.0123, share=False)
    ('25.6', '−0.012')
    """
    return _without_negative_zero(f"{100 * value:.1f}" if share else f"{value:.3f}").replace("-", MINUS)


def format_difference(value: float, *, share: bool) -> str:
    """Format a difference with its sign, in percentage points for shares.

    >>> format_difference(0.256, share=True), format_difference(-0.0123, share=False)
    ('+25.6', '−0.012')
    """
    text = _without_negative_zero(f"{100 * value:+.1f}" if share else f"{value:+.3f}", zero="+")
    return text.replace("-", MINUS)


def _without_negative_zero(text: str, zero: str = "") -> str:
    """Replace the minus sign of a number that is 0 as it is printed, such as "-0.0", by the sign of zero."""
    return zero + text[1:] if text.startswith("-") and not text.strip("-0.") else text


def format_quantity(value: float) -> str:
    """Format a quantity with three decimals, a large one with two significant digits.

    >>> format_quantity(12.3456), format_quantity(123456.7)
    ('12.346', '1.2e+05')
    """
    return _without_negative_zero(f"{value:.3f}") if abs(value) < 9999.9995 else f"{value:.2g}"


def format_p_value(p: float | None) -> str:
    """Format a p-value with three decimals. None becomes an empty string.

    >>> format_p_value(0.0421), format_p_value(0.00002)
    ('0.042', '<.001')
    """
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def format_interval(low: float | None, high: float | None, spec: str = ".2f", separator: str = "-") -> str:
    """Format an interval in brackets, with a leading space. A missing bound gives an empty string.

    >>> format_interval(0.25, 0.5), format_interval(-1, 1, "+.0f", " to ")
    (' [0.25-0.50]', ' [-1 to +1]')
    """
    return "" if low is None or high is None else f" [{low:{spec}}{separator}{high:{spec}}]"


def format_regime(protocol: RunProtocol) -> str:
    """Describe the edit regime of a run, for example ``batches of 10 edits``."""
    if protocol.regime == "batch":
        return f"batches of {protocol.batch_edits} edits"
    if protocol.regime == "sequential":
        return f"after {protocol.cases} sequential edits"
    return "single edits"


def perplexity(nll: float) -> float:
    """Return the perplexity of a mean negative log-likelihood in nats per token.

    >>> perplexity(0.0), perplexity(1000.0) == math.exp(MAX_NLL)
    (1.0, True)
    """
    return math.exp(min(nll, MAX_NLL))


def drift_title(task: DriftTask) -> str:
    """Return the name of a drift task for people: ``knbench_anaphor_gender`` becomes ``anaphor gender``."""
    return "perplexity" if task.metric == "nll" else task.task.removeprefix("knbench_").replace("_", " ")


@dataclass(frozen=True)
class DriftRow:
    """One drift task as text, before the edits and after the last one.

    Attributes:
        name: name of the task, with the metric unless it is ``nll`` or ``acc``.
        title: name of the task for people.
        before: value of the unedited model; perplexity for ``nll``.
        after: value of the edited model; perplexity for ``nll``.
        difference: difference with its 95% interval; nats per token for ``nll``.
    """

    name: str
    title: str
    before: str
    after: str
    difference: str


def format_drift(drift: DriftInfo | None) -> list[DriftRow]:
    """Format the last point of every drift task. Tasks without a point are left out."""
    return [_drift_row(task, task.points[-1]) for task in drift.tasks if task.points] if drift else []


def _drift_row(task: DriftTask, point: DriftPoint) -> DriftRow:
    before, after = task.before, task.before + point.difference
    if task.metric == "nll":
        before, after = perplexity(before), perplexity(after)
    return DriftRow(
        name=task.task if task.metric in ("nll", "acc") else f"{task.task} ({task.metric})",
        title=drift_title(task),
        before=format_quantity(before),
        after=format_quantity(after),
        difference=f"{point.difference:+.3f}" + format_interval(point.low, point.high, "+.3f", " to "),
    )
