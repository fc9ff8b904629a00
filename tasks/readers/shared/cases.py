"""Builds edit requests, probes and cases from the fields of records."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ....benchmark.core.schema import Case, EditRequest, Probe, digest
from .fields import equal_ignoring_case
from .skips import SkipRecord, SkipReport, SourceLocation

NEIGHBOURHOOD_PROBES = 4
"""Maximum number of neighbourhood probes per case, where a reader chooses them itself."""

Answers = tuple[str, ...]
"""An answer, followed by its other accepted spellings."""

T = TypeVar("T")


@dataclass(frozen=True)
class EditFields:
    """The fields of a record of an editing data set, independent of their names in the file.

    Attributes:
        subject: the subject of the fact.
        prompt: the edit prompt, with ``{}`` for the subject.
        new: the new target.
        true: the true answer and its other spellings.
        paraphrases: other wordings of the prompt, with the subject filled in.
        locality: prompts that the edit must not change, each with its true answers.
        portability: prompts that follow from the edit, each with the answers expected after it.
    """

    subject: str
    prompt: str
    new: str
    true: Answers
    paraphrases: tuple[str, ...] = ()
    locality: tuple[tuple[str, Answers], ...] = ()
    portability: tuple[tuple[str, Answers], ...] = ()


def make_request(prompt: str, subject: str, new: str, true: str) -> EditRequest:
    """Return a validated edit request.

    Raises:
        SkipRecord: the targets are equal up to case, or the prompt does not contain exactly one ``{}``.
    """
    if equal_ignoring_case(new, true):
        raise SkipRecord("the new target equals the true target")
    try:
        return EditRequest(prompt=prompt, subject=subject, target_new=new, target_true=true)
    except ValueError:
        raise SkipRecord("the prompt does not contain exactly one slot for the subject") from None


def build_edit_case(
    fields: EditFields, case_id: str, source: str, location: SourceLocation, report: SkipReport
) -> Case:
    """Return the case of a record, with reliability, paraphrase, neighbourhood and portability probes.

    Raises:
        SkipRecord: the record has no true answer, or the new target is one of the true answers.
    """
    if not fields.true:
        raise SkipRecord("no true answer to compare with the new target")
    if any(equal_ignoring_case(fields.new, true) for true in fields.true):
        raise SkipRecord("the new target equals the true target")
    new, true = fields.new, fields.true[0]
    request = make_request(fields.prompt.strip(), fields.subject, new, true)
    probes = [Probe("reliability", "completion", request.text, new, true, "new")]
    probes += [Probe("paraphrase", "completion", prompt, new, true, "new") for prompt in fields.paraphrases]
    for prompt, answers in fields.locality:
        probes.append(Probe("neighbourhood", "completion", prompt, answers[0], new, "unchanged", answers[1:]))
    for prompt, answers in fields.portability:
        probes.append(Probe("portability", "completion", prompt, answers[0], true, "new", answers[1:]))
    kept = []
    for probe in probes:
        # The comparison of target and rival is undefined if one is an accepted spelling of the other.
        if any(equal_ignoring_case(answer, probe.rival) for answer in (probe.target, *probe.aliases)):
            report.skip_probe(location, "target equals rival")
        else:
            kept.append(probe)
    return Case(id=case_id, request=request, probes=tuple(kept), source=source)


def build_cases(
    records: Sequence[T], location: Callable[[T], SourceLocation], make: Callable[[T], Case], report: SkipReport
) -> list[Case]:
    """Return the cases of all records. Records that raise ``SkipRecord`` or repeat a case id are reported."""
    cases: dict[str, Case] = {}
    for record in records:
        try:
            case = make(record)
        except SkipRecord as error:
            report.skip(location(record), str(error))
            continue
        if case.id in cases:
            report.skip(location(record), "duplicate id")
        else:
            cases[case.id] = case
    return list(cases.values())


class HashOrderedPool(Generic[T]):
    """Items in the order of the digests of their names, from which each case draws a reproducible selection.

    A draw starts at a position that depends on the key alone and wraps around at the end. Sorting all items for each
    case by a digest of item and case would need n^2 digests instead of n.
    """

    def __init__(self, items: Iterable[T], name: Callable[[T], str]) -> None:
        pairs = sorted(((digest(name(item)), item) for item in items), key=lambda pair: pair[0])
        self._digests = [pair[0] for pair in pairs]
        self._items = [pair[1] for pair in pairs]

    def pick(self, key: str, count: int, accept: Callable[[T], bool]) -> list[T]:
        """Return the first ``count`` accepted items from the position of ``key`` on; fewer if the pool has fewer."""
        start = bisect(self._digests, digest(["pick", key]))
        picked: list[T] = []
        for item in self._items[start:] + self._items[:start]:
            if len(picked) == count:
                break
            if accept(item):
                picked.append(item)
        return picked
