"""Builds edit requests, probes and cases from the fields of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ....benchmark.core.schema import SLOT, Case, EditRequest, Probe
from ....benchmark.scoring.answers import normalise
from .fields import equal_ignoring_case
from .skips import SkipRecord, SkipReport, SourceLocation

NEIGHBOURHOOD_PROBES = 4
"""Maximum number of neighbourhood probes per case, where a reader chooses them itself."""

Answers = tuple[str, ...]
"""An answer, followed by its other accepted spellings."""

T = TypeVar("T")


class SidePrompt(NamedTuple):
    """A prompt next to the edit.

    Attributes:
        prompt: the prompt.
        answers: its answer after the edit, and other spellings.
        rival: its answer before the edit; empty if the data set does not give it.
    """

    prompt: str
    answers: Answers
    rival: str = ""


@dataclass(frozen=True)
class EditFields:
    """The fields of a record of an editing data set, independent of their names in the file.

    Attributes:
        subject: the subject of the fact.
        prompt: the edit prompt, with ``{}`` for the subject.
        new: the new target and its other spellings.
        true: the true answer and its other spellings.
        paraphrases: other wordings of the prompt, with the subject or with ``{}`` for it.
        locality: prompts that the edit must not change, each with its true answers.
        portability: prompts that follow from the edit, each with the answers expected after it.
    """

    subject: str
    prompt: str
    new: Answers
    true: Answers
    paraphrases: tuple[str, ...] = ()
    locality: tuple[SidePrompt, ...] = ()
    portability: tuple[SidePrompt, ...] = ()


def make_request(prompt: str, subject: str, new: str, true: str) -> EditRequest:
    """Return a validated edit request.

    Raises:
        SkipRecord: the targets are equal, or the prompt does not contain exactly one ``{}``.
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

    A portability probe that asks for the new target has the true answer as rival. The answers of other portability
    probes ("The currency of the country of ... is") are no alternatives to the true answer of the edit: their rival is
    the answer that the data set gives for the time before the edit, or none.

    A prompt that asks for the new target and is also listed with another answer contradicts itself. The new target
    counts, and the other answer is reported.

    Raises:
        SkipRecord: the record has no true answer, or the new target is one of the true answers.
    """
    if not fields.true:
        raise SkipRecord("no true answer to compare with the new target")
    if _share_spelling(fields.new, fields.true):
        raise SkipRecord("the new target equals the true target")
    (new, *spellings), true = fields.new, fields.true[0]
    aliases = tuple(spellings)
    request = make_request(fields.prompt.strip(), fields.subject, new, true)
    probes = [Probe("reliability", "completion", request.text, new, true, "new", aliases)]
    for paraphrase in fields.paraphrases:
        prompt = paraphrase.replace(SLOT, fields.subject)
        probes.append(Probe("paraphrase", "completion", prompt, new, true, "new", aliases))
    edited = {probe.prompt for probe in probes}
    # The comparison of target and rival is undefined if one is an accepted spelling of the other.
    for prompt, answers, _ in fields.locality:
        if SLOT in prompt:
            report.skip_probe(location, "neighbourhood prompt without a subject")
        elif prompt in edited:
            report.skip_probe(location, "neighbourhood prompt that asks for the new target")
        elif _share_spelling(answers, fields.new):
            report.skip_probe(location, "target equals rival")
        else:
            probes.append(Probe("neighbourhood", "completion", prompt, answers[0], new, "unchanged", answers[1:]))
    for prompt, answers, own_rival in fields.portability:
        filled = prompt.replace(SLOT, fields.subject)
        if filled in edited and not _share_spelling(answers, fields.new):
            report.skip_probe(location, "portability prompt that asks for the new target, with another answer")
            continue
        rival = own_rival or (true if _share_spelling(answers, fields.new) else "")
        if _share_spelling(answers, (rival,)) or (rival == true and _share_spelling(answers, fields.true)):
            report.skip_probe(location, "target equals rival")
        else:
            probes.append(Probe("portability", "completion", filled, answers[0], rival, "new", answers[1:]))
    return Case(id=case_id, request=request, probes=tuple(probes), source=source)


def _share_spelling(first: Answers, second: Answers) -> bool:
    """Return whether two answers have a spelling in common, compared as in :func:`.fields.equal_ignoring_case`."""
    return not {normalise(spelling) for spelling in first}.isdisjoint(map(normalise, second))


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
