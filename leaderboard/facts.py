"""Fact pages: one case across all methods, with what each of them made the model say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..benchmark.core.documents import Result
from ..benchmark.scoring.criteria import CRITERIA
from .cases import AnswerView, CaseSummary, CaseView, ProbeView, said
from .paths import facts_page, method_anchor, result_page

NO_ANSWER = "not measured"


@dataclass(frozen=True, eq=False)
class MeasuredCases:
    """The cases of one method on one task.

    Attributes:
        kind: what the method changes, or ``control``; empty where it is unknown.
        result: the result.
        score: its edit score; None where it is undefined.
        cases: its cases.
    """

    method: str
    kind: str
    result: Result
    score: float | None
    cases: Sequence[CaseView]

    @cached_property
    def page(self) -> str:
        """Path of the page of the result."""
        return result_page(self.result)


@dataclass(frozen=True)
class FactRow:
    """One method on one case.

    Attributes:
        anchor: id of the row.
        page: path of the method's result.
        said: answer to the edit prompt; None if it was not measured.
        passed: whether the answer passes by ``success``; None if that is not defined.
        counts: by :attr:`FactView.criteria`, number of passed probes and of all probes; None without a verdict.
        failure: the error that prevented the edit or the measurement; empty without one.
    """

    method: str
    kind: str
    anchor: str
    page: str
    said: str | None
    passed: bool | None
    counts: Sequence[tuple[int, int] | None]
    failure: str


@dataclass(frozen=True)
class SameAnswer:
    """Methods that made the model give the same answer to a probe.

    Attributes:
        text: the answer.
        passed: whether it passes by ``success``; None if that is not defined.
        methods: the methods, each with the probability of the target.
    """

    text: str
    passed: bool | None
    methods: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class FactProbe:
    """A probe with the answers of all methods.

    Attributes:
        asked: the probe, with the answers of the first method.
        before: answer of the unedited model; None if it was not measured.
        before_odds: probabilities of target and rival before the edit; empty where they are not defined.
        answers: answers after the edit, the most frequent one first.
    """

    asked: ProbeView
    before: str | None
    before_odds: str
    answers: Sequence[SameAnswer]


@dataclass(frozen=True)
class FactView:
    """One case across all methods.

    Attributes:
        path: path of its page.
        summary: the request.
        before: answer of the unedited model to the edit prompt.
        criteria: titles of the criteria with a verdict.
        rows: the methods, the best on the task first.
        probes: all probes.
        previous: the page of the case before it, or empty; ``following`` likewise.
    """

    path: str
    summary: CaseSummary
    before: str | None
    criteria: Sequence[str]
    rows: Sequence[FactRow]
    probes: Sequence[FactProbe]
    previous: str = ""
    following: str = ""


@dataclass(frozen=True)
class FactsView:
    """All cases of a task that were measured with one protocol.

    Attributes:
        path: path of the list.
        result: one of the results.
        facts: the cases.
        methods: names of the methods.
    """

    path: str
    result: Result
    facts: Sequence[FactView]
    methods: Sequence[str]


def facts_view(members: Sequence[MeasuredCases]) -> FactsView:
    """Return the cases of a task across methods.

    Args:
        members: the results of methods on one task with one protocol.
    """
    ordered = sorted(members, key=_order)
    found: dict[str, list[tuple[MeasuredCases, CaseView]]] = {}
    for member in ordered:
        for case in member.cases:
            found.setdefault(case.summary.name, []).append((member, case))
    first = ordered[0].result
    folder = facts_page(first).removesuffix(".html")
    facts = [_fact(f"{folder}/{name}.html", having) for name, having in found.items()]
    pages = ["", *(fact.path for fact in facts), ""]
    facts = [replace(fact, previous=pages[n], following=pages[n + 2]) for n, fact in enumerate(facts)]
    return FactsView(facts_page(first), first, facts, [member.method for member in ordered])


def criteria_of(cases: Iterable[CaseSummary]) -> list[str]:
    """Return the titles of the criteria with a verdict in some cases, in the order of the benchmark."""
    titles = [criterion.title for criterion in CRITERIA.values()]
    present = {count.criterion for case in cases for count in case.counts}
    return [title for title in titles if title in present] + sorted(present - {*titles})


def counts_of(case: CaseSummary, criteria: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return the number of passed probes and of all probes of each criterion; None without a verdict."""
    counts = {count.criterion: (count.passed, count.total) for count in case.counts}
    return [counts.get(criterion) for criterion in criteria]


def _order(member: MeasuredCases) -> tuple[float, str]:
    return (1.0 if member.score is None else -member.score, member.method)


def _fact(path: str, having: Sequence[tuple[MeasuredCases, CaseView]]) -> FactView:
    example = having[0][1]
    criteria = criteria_of(case.summary for _, case in having)
    probes = _aligned([case.probes for _, case in having])
    first = next((probe for probe in example.probes if probe.criterion == CRITERIA["reliability"].title), None)
    return FactView(
        path=path,
        summary=example.summary,
        before=said(first, first.before) if first else None,
        criteria=criteria,
        rows=[_row(member, case.summary, criteria) for member, case in having],
        probes=[_probe(found, [member.method for member, _ in having]) for found in probes],
    )


def _row(member: MeasuredCases, case: CaseSummary, criteria: Sequence[str]) -> FactRow:
    failure = case.failure
    return FactRow(
        method=member.method,
        kind=member.kind,
        anchor=method_anchor(member.method),
        page=member.page,
        said=case.said,
        passed=case.passed,
        counts=counts_of(case, criteria),
        failure=f"{failure.phase}: {failure.type}: {failure.message}" if failure else "",
    )


def _aligned(by_method: Sequence[Sequence[ProbeView]]) -> list[list[ProbeView | None]]:
    """Return for each probe the views of all methods. Methods may have asked for further probes."""
    keys: dict[tuple[str, str, str, int], list[ProbeView | None]] = {}
    for number, probes in enumerate(by_method):
        seen: dict[tuple[str, str, str], int] = {}
        for probe in probes:
            question = (probe.criterion, probe.prompt, probe.target)
            seen[question] = seen.get(question, 0) + 1
            row = keys.setdefault((*question, seen[question]), [None] * len(by_method))
            row[number] = probe
    return list(keys.values())


def _probe(found: Sequence[ProbeView | None], methods: Sequence[str]) -> FactProbe:
    example = next(probe for probe in found if probe is not None)
    groups: dict[tuple[str, bool | None], list[tuple[str, str]]] = {}
    for method, probe in zip(methods, found, strict=True):
        if probe is not None:
            text = said(probe, probe.after)
            key = (NO_ANSWER if text is None else text, probe.passed)
            groups.setdefault(key, []).append((method, _probability(probe, probe.after)))
    answers = [SameAnswer(text, passed, tuple(names)) for (text, passed), names in groups.items()]
    answers.sort(key=lambda answer: -len(answer.methods))
    return FactProbe(
        asked=example,
        before=said(example, example.before),
        before_odds=_odds(example, example.before),
        answers=answers,
    )


def _probability(probe: ProbeView, answer: AnswerView | None) -> str:
    return answer.target.removeprefix("0") if answer and probe.kind in ("completion", "minimal_pair") else ""


def _odds(probe: ProbeView, answer: AnswerView | None) -> str:
    if answer is None or not answer.target or probe.kind not in ("completion", "minimal_pair"):
        return ""
    rival = f", P({probe.rival}) {answer.rival}" if answer.rival else ""
    return f"P({probe.target}) {answer.target}{rival}"
