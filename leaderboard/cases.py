"""Single cases: the request, the answers before and after the edit, and the verdict on each probe."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..benchmark.core.records import Failure, Observation, ProbeRecord, Record
from ..benchmark.core.schema import ProbeKind
from ..benchmark.results.layout import slug
from ..benchmark.scoring.criteria import CRITERIA, MEASURES

EXPECTATIONS = {"new": "prefers", "unchanged": "still prefers", "gone": "no longer prefers"}
"""Verb before target and rival in the expected answer, by the ``expect`` of a probe."""
EXTREMES = 3
"""Number of best and of worst cases on a method's page."""
MIN_LOGPROB = -25.0
"""Probabilities below e^-25 are shown as a power of e."""


@dataclass(frozen=True)
class AnswerView:
    """An observation as text.

    Attributes:
        text: generated text; empty if nothing was generated for the probe.
        target: probability of the target; empty for a ``generation`` probe.
        rival: probability of the rival; empty for a ``generation`` probe.
        prefers_target: whether the target is more probable than the rival; None without a rival.
    """

    text: str
    target: str
    rival: str
    prefers_target: bool | None = None


@dataclass(frozen=True)
class ProbeView:
    """A probe with its answers.

    Attributes:
        criterion: title of the criterion.
        expected: verb between "the edited model" and the target.
        passed: whether the answer after the edit passes by ``success``; None if that is not defined.
        before: answer of the unedited model; None if it was not measured.
        after: answer of the edited model; None if it was not measured.
    """

    criterion: str
    kind: ProbeKind
    prompt: str
    target: str
    rival: str
    expected: str
    passed: bool | None
    before: AnswerView | None
    after: AnswerView | None


@dataclass(frozen=True)
class CriterionCount:
    """Number of probes of a criterion that passed, and number of probes with a verdict."""

    criterion: str
    passed: int
    total: int


@dataclass(frozen=True)
class CaseSummary:
    """A case in one line.

    Attributes:
        name: name of the page of the case. It depends on the case and its probes alone, and not on other results.
        prompt: the edit prompt with its subject.
        target_new: the new answer.
        target_true: the answer before the edit.
        failure: the error that prevented edit or measurement, or None.
        counts: passed probes by criterion.
        score: mean over criteria of the share of passed probes; None without a verdict.
        said: answer of the edited model to the edit prompt; None if it was not measured.
        passed: whether ``said`` passes by ``success``; None if that is not defined.
    """

    case_id: str
    name: str
    prompt: str
    target_new: str
    target_true: str
    failure: Failure | None
    counts: tuple[CriterionCount, ...]
    score: float | None
    said: str | None = None
    passed: bool | None = None


@dataclass(frozen=True)
class CaseView:
    """A case with all of its probes."""

    summary: CaseSummary
    probes: tuple[ProbeView, ...]


@dataclass(frozen=True)
class CaseLink:
    """A case and the page that shows it for all methods."""

    page: str
    case: CaseSummary


@dataclass
class ExtremeCases:
    """The best and the worst cases of a method, collected over its results.

    Attributes:
        links: cases with a score, at most :data:`EXTREMES` at either end.
    """

    links: list[CaseLink] = field(default_factory=list)

    def add(self, links: Iterable[CaseLink]) -> None:
        """Add cases, and keep the best and the worst. Cases without a score are ignored."""
        candidates = [*self.links, *(link for link in links if link.case.score is not None)]
        best = heapq.nlargest(EXTREMES, candidates, key=case_score)
        worst = heapq.nsmallest(EXTREMES, candidates, key=case_score)
        self.links = [*best, *(link for link in worst if link not in best)]


def case_score(link: CaseLink) -> float:
    """Return the score of a case, 0 without a verdict."""
    return link.case.score or 0.0


def case_name(record: Record) -> str:
    """Return the name of a case in paths, from its subject and a digest of its questions.

    Results with other questions under the same case id have other pages.
    """
    probes = [[p.criterion, p.prompt, p.target, p.rival] for p in record.probes if p.kind != "generation"]
    request = record.request
    questions = [record.case_id, request.text, request.target_new, request.target_true, probes]
    digest = hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:12]
    return f"{slug(request.subject or request.target_new)[:32].strip('-.')}-{digest}"


def case_view(record: Record) -> CaseView:
    """Return the view of a record."""
    request = record.request
    probes = tuple(probe_view(probe) for probe in record.probes)
    counts = _counts(probes)
    shares = [count.passed / count.total for count in counts]
    first = next((probe for probe in probes if probe.criterion == CRITERIA["reliability"].title), None)
    summary = CaseSummary(
        case_id=record.case_id,
        name=case_name(record),
        prompt=request.text,
        target_new=request.target_new,
        target_true=request.target_true,
        failure=record.failure,
        counts=counts,
        score=sum(shares) / len(shares) if shares else None,
        said=said(first, first.after) if first else None,
        passed=first.passed if first else None,
    )
    return CaseView(summary, probes)


def said(probe: ProbeView, answer: AnswerView | None) -> str | None:
    """Return what a model says to a probe: its text, or else the answer that it prefers; None if not measured."""
    if answer is None:
        return None
    if answer.text or answer.prefers_target is None:
        return answer.text or answer.target
    return probe.target if answer.prefers_target else probe.rival


def _counts(probes: Sequence[ProbeView]) -> tuple[CriterionCount, ...]:
    verdicts: dict[str, list[bool]] = {}
    for probe in probes:
        if probe.passed is not None:
            verdicts.setdefault(probe.criterion, []).append(probe.passed)
    return tuple(CriterionCount(criterion, sum(passed), len(passed)) for criterion, passed in verdicts.items())


def probe_view(probe: ProbeRecord) -> ProbeView:
    """Return the view of a probe. It passes by the measure ``success``."""
    value = None
    if probe.before is not None and probe.after is not None:
        value = MEASURES["success"].of(probe, probe.before, probe.after)
    return ProbeView(
        criterion=CRITERIA[probe.criterion].title if probe.criterion in CRITERIA else probe.criterion,
        kind=probe.kind,
        prompt=probe.prompt,
        target=probe.target,
        rival=probe.rival,
        expected=EXPECTATIONS[probe.expect],
        passed=None if value is None else bool(value),
        before=_answer_view(probe.before),
        after=_answer_view(probe.after),
    )


def _answer_view(observation: Observation | None) -> AnswerView | None:
    if observation is None:
        return None
    if observation.text is not None:
        return AnswerView(observation.text.strip() or "(empty)", "", "")
    if not observation.has_answers:
        return AnswerView("", "" if observation.kl is None else f"KL {observation.kl:.2g} nats per token", "")
    has_rival = observation.rival_answer is not None
    return AnswerView(
        "" if observation.generated is None else observation.generated.strip() or "(empty)",
        format_probability(observation.target.logprob),
        format_probability(observation.rival.logprob) if has_rival else "",
        observation.prefers_target if has_rival else None,
    )


def format_probability(logprob: float) -> str:
    """Format a probability with two to four significant digits, a very small one as a power of e.

    >>> format_probability(-0.01), format_probability(-5.0), format_probability(-50.0)
    ('0.990', '0.0067', 'e^-50.0')
    """
    if logprob < MIN_LOGPROB:
        return f"e^{logprob:.1f}"
    p = math.exp(logprob)
    return f"{p:.3f}" if p >= 0.01 else f"{p:.1e}" if p < 0.001 else f"{p:.4f}"
