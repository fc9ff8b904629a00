"""Content of the pages that compare two methods, and of their overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..benchmark.results.comparison import PairedRow, compare_values, corrected
from ..benchmark.scoring.criteria import CRITERIA
from ..benchmark.scoring.formatting import format_difference, format_p_value, format_value
from .cases import case_anchor
from .entries import Section, is_share
from .pages import MAX_COMPARED, SHOWN_MEASURE
from .paths import result_page

ALPHA = 0.05
"""Significance level of the adjusted p-values."""


@dataclass(frozen=True)
class PairRow:
    """Methods A and B on one task by one criterion, as text.

    Attributes:
        a: mean of A.
        b: mean of B.
        difference: A minus B.
        interval: 95% interval of the difference; empty if there is none.
        p: p-value of the paired permutation test.
        p_adjusted: ``p`` after correction for the number of rows.
        significant: whether ``p_adjusted`` is below 0.05.
        ahead: ``a`` or ``b``, the method with the higher mean; empty for equal means.
        wins: number of cases on which A is better, worse and equal.
        mcnemar: number of cases that only A and only B gets right, with the p-value of McNemar's test.
    """

    task: str
    criterion: str
    cases: int
    a: str
    b: str
    difference: str
    interval: str
    p: str
    p_adjusted: str
    significant: bool
    ahead: str
    wins: str
    mcnemar: str


@dataclass(frozen=True)
class PairCase:
    """A case on which A and B differ.

    Attributes:
        case: the case id.
        page: path of the page of A's result, with the anchor of the case.
    """

    task: str
    criterion: str
    case: str
    a: str
    b: str
    page: str


@dataclass(frozen=True)
class PairView:
    """Methods A and B on the cases that both were run on."""

    a: str
    b: str
    rows: list[PairRow]
    cases: list[PairCase]

    @property
    def significant_winners(self) -> list[str]:
        """The better method of each significant difference."""
        return [self.a if row.ahead == "a" else self.b for row in self.rows if row.significant]


@dataclass(frozen=True)
class PairMatrix:
    """Overview of the pairs of a section.

    Attributes:
        names: the compared methods.
        ahead: by (method, other method), the number of criteria over all tasks on which the method is significantly
            better.
        remaining: number of methods that are not compared.
    """

    section: Section
    notes: list[str]
    names: Sequence[str]
    ahead: Mapping[tuple[str, str], int]
    remaining: int


def pairs_of(section: Section) -> list[tuple[str, str]]:
    """Return the pairs of methods that have a page."""
    return list(combinations(section.methods[:MAX_COMPARED], 2))


def pair_view(section: Section, first: str, second: str) -> PairView:
    """Compare two methods case by case: paired tests, and the cases on which they differ."""
    share = is_share(SHOWN_MEASURE)
    rows: list[PairedRow] = []
    cases = []
    for task in section.tasks():
        members = section.entries[task]
        if first in members and second in members:
            a, b = (members[name].values[SHOWN_MEASURE] for name in (first, second))
            rows += compare_values(task[0], a, b)
            page = result_page(members[first].result)
            cases += [
                PairCase(
                    task=task[0],
                    criterion=CRITERIA[criterion].title,
                    case=case_id,
                    a=format_value(a[criterion][case_id], share=share),
                    b=format_value(b[criterion][case_id], share=share),
                    page=f"{page}#{case_anchor(case_id)}",
                )
                for criterion in a
                if criterion in b
                for case_id in a[criterion]
                if case_id in b[criterion] and a[criterion][case_id] != b[criterion][case_id]
            ]
    return PairView(first, second, [_pair_row(row, share) for row in corrected(rows)], cases)


def _pair_row(row: PairedRow, share: bool) -> PairRow:
    interval = mcnemar = ""
    if row.low is not None and row.high is not None:
        interval = f"[{format_difference(row.low, share=share)}, {format_difference(row.high, share=share)}]"
    if row.p_mcnemar is not None:
        mcnemar = f"{row.only_a} : {row.only_b}, p {format_p_value(row.p_mcnemar)}"
    return PairRow(
        task=row.task,
        criterion=CRITERIA[row.criterion].title,
        cases=row.cases,
        a=format_value(row.a, share=share),
        b=format_value(row.b, share=share),
        difference=format_difference(row.difference, share=share),
        interval=interval,
        p=format_p_value(row.p),
        p_adjusted=format_p_value(row.p_adjusted),
        significant=row.p_adjusted is not None and row.p_adjusted < ALPHA,
        ahead="a" if row.difference > 0 else "b" if row.difference < 0 else "",
        wins=f"{row.wins} / {row.losses} / {row.ties}",
        mcnemar=mcnemar,
    )
