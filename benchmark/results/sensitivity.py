"""How far the order of methods depends on the choices of the edit score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from ..core.errors import KnbenchError
from ..scoring.edit_score import EDIT_SCORE, Definition, case_values
from .comparison import TaskComparison
from .edit_scores import complete_methods, rank_by_edit_score

VARIANTS: Mapping[str, Definition] = {
    "the edit score": EDIT_SCORE,
    "geometric mean over families": replace(EDIT_SCORE, mean_over_families="geometric"),
    "1 - JS / ln 2 instead of exp(-KL)": replace(EDIT_SCORE, closeness="js"),
    "success instead of generated for facts": replace(
        EDIT_SCORE, headline={"fact": "success", "linguistic": "success"}
    ),
    "without integrity": replace(
        EDIT_SCORE, preservation=tuple(name for name in EDIT_SCORE.preservation if name != "integrity")
    ),
    "specificity by preference alone": replace(EDIT_SCORE, shift=False),
    "equal weight per criterion": replace(
        EDIT_SCORE, families={name: (name,) for names in EDIT_SCORE.families.values() for name in names}
    ),
}
"""The edit score and six variants of it."""


@dataclass(frozen=True)
class VariantOrder:
    """The order of methods by a variant of the edit score.

    Attributes:
        variant: name of the variant.
        scores: score of each method between 0 and 1, the best first.
        spearman: rank correlation with the edit score; None for fewer than three methods or equal scores.
        kendall: Kendall's tau-b with the edit score, or None.
    """

    variant: str
    scores: Mapping[str, float]
    spearman: float | None
    kendall: float | None


def orders(groups: Sequence[TaskComparison]) -> list[VariantOrder]:
    """Return the order of the methods that have all tasks, by the edit score and by each variant.

    Variants that the records cannot answer are left out: records of version 0.1 hold no Jensen-Shannon divergence.

    Args:
        groups: results by task.

    Raises:
        KnbenchError: no method has an edit score on all tasks.
    """
    found: list[VariantOrder] = []
    reference: Mapping[str, float] = {}
    for name, definition in VARIANTS.items():
        tasks = [
            {m: case_values(list(records.values()), group.kind, definition) for m, records in group.records.items()}
            for group in groups
        ]
        scores = {row.method: row.value for row in rank_by_edit_score(complete_methods(tasks), ranked=False)}
        if not reference:
            reference = scores
        if set(scores) == set(reference) and scores:
            methods = sorted(scores)
            pair = [reference[m] for m in methods], [scores[m] for m in methods]
            found.append(VariantOrder(name, scores, *_correlations(*pair)))
    if not found:
        raise KnbenchError("no editor has an edit score on all tasks of these folders; pass folders of the same tasks")
    return found


def _correlations(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None, None
    return float(stats.spearmanr(a, b).statistic), float(stats.kendalltau(a, b).statistic)
