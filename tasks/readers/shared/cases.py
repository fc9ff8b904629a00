"""Builds edit requests, probes and cases from the fields of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ....benchmark.core.schema import SLOT, Case, Condition, EditRequest, Probe
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
        conditions: prompts with answers that the unedited model must give, or else the prompt does not count.
    """

    prompt: str
    answers: Answers
    rival: str = ""
    conditions: tuple[tuple[str, Answers], ...] = ()


@dataclass(frozen=True)
class EditFields:
    """The fields of a record of an editing data set, independent of their names in the file.

    Attributes:
        subject: the subject of the fact; an empty string if the record has none.
        prompt: the edit prompt, with ``{}`` for the subject.
        new: the new target and its other spellings.
        true: the true answer and its other spellings; empty if there is none.
        paraphrases: other wordings of the prompt, with the subject or with ``{}`` for it.
        answered: other forms of the question, each with the answer expected after the edit.
        locality: prompts that the edit must not change, each with its true answers.
        portability: prompts that follow from the edit, each with the answers expected after it.
        synonym: the prompt about another name of the subject, with the answers expected after the edit.
        symmetry: prompts of the inverse relation, each with the answers expected after the edit.
        unrelated: prompts about other facts of the subject, each with its true answers.
        unedited: prompts that the edit must not change and whose answers are no alternatives to the new target.
        distractor: prompts of other subjects that repeat the edit, each with its true answers.
        further: other edits of the record, which are made together with this one. Their prompts and paraphrases are
            probed in the same way.
    """

    subject: str
    prompt: str
    new: Answers
    true: Answers
    paraphrases: tuple[str, ...] = ()
    answered: tuple[SidePrompt, ...] = ()
    locality: tuple[SidePrompt, ...] = ()
    portability: tuple[SidePrompt, ...] = ()
    synonym: tuple[SidePrompt, ...] = ()
    symmetry: tuple[SidePrompt, ...] = ()
    unrelated: tuple[SidePrompt, ...] = ()
    unedited: tuple[SidePrompt, ...] = ()
    distractor: tuple[SidePrompt, ...] = ()
    further: tuple[EditFields, ...] = ()

    @property
    def request(self) -> EditRequest:
        """The edit request.

        Raises:
            SkipRecord: the new target is one of the true answers, or the prompt does not have one slot.
        """
        if share_spelling(self.new, self.true):
            raise SkipRecord("the new target equals the true target")
        return make_request(self.prompt.strip(), self.subject, self.new[0], next(iter(self.true), ""))


def make_request(prompt: str, subject: str, new: str, true: str) -> EditRequest:
    """Return a validated edit request.

    Raises:
        SkipRecord: the targets are equal, or the prompt does not contain exactly one ``{}``.
    """
    if true and equal_ignoring_case(new, true):
        raise SkipRecord("the new target equals the true target")
    try:
        return EditRequest(prompt=prompt, subject=subject, target_new=new, target_true=true)
    except ValueError:
        raise SkipRecord("the prompt does not contain exactly one slot for the subject") from None


def build_edit_case(
    fields: EditFields, case_id: str, source: str, location: SourceLocation, report: SkipReport
) -> Case:
    """Return the case of a record, with the probes that its fields allow.

    A probe of a consequence (portability, synonym, symmetry) that asks for the new target has the true answer as rival.
    The answers of other such probes ("The currency of the country of ... is") are no alternatives to the true answer of
    the edit: their rival is the answer that the data set gives for the time before the edit, or none.

    A prompt that asks for the new target and is also listed with another answer contradicts itself. The new target
    counts, and the other answer is reported.

    Raises:
        SkipRecord: a new target is one of the true answers, or a prompt does not have one slot for its subject.
    """
    edits = (fields, *fields.further)
    requests = [edit.request for edit in edits]
    probes = [
        Probe("reliability", "completion", request.text, request.target_new, request.target_true, "new", edit.new[1:])
        for request, edit in zip(requests, edits, strict=True)
    ]
    for request, edit in zip(requests, edits, strict=True):
        for paraphrase in edit.paraphrases:
            prompt = paraphrase.replace(SLOT, edit.subject)
            new, true = request.target_new, request.target_true
            probes.append(Probe("paraphrase", "completion", prompt, new, true, "new", edit.new[1:]))
    prompts = _Prompts(fields, frozenset(probe.prompt for probe in probes), location, report)
    asked = [
        *((side, prompts.consequence("paraphrase", side)) for side in fields.answered),
        *((side, prompts.kept("neighbourhood", side, fields.new)) for side in fields.locality),
        *((side, prompts.consequence("portability", side)) for side in fields.portability),
        *((side, prompts.consequence("synonym", side)) for side in fields.synonym),
        *((side, prompts.consequence("symmetry", side)) for side in fields.symmetry),
        *((side, prompts.kept("unrelated", side, ())) for side in fields.unrelated),
        *((side, prompts.kept("neighbourhood", side, ())) for side in fields.unedited),
        *((side, prompts.kept("distractor", side, fields.new)) for side in fields.distractor),
    ]
    conditions: dict[tuple[str, Answers], list[int]] = {}
    for side, probe in asked:
        if probe is None:
            continue
        for condition in side.conditions:
            conditions.setdefault(condition, []).append(len(probes))
        probes.append(probe)
    return Case(
        id=case_id,
        request=requests[0],
        probes=tuple(probes),
        source=source,
        further=tuple(requests[1:]),
        conditions=tuple(Condition(prompt, answers, tuple(which)) for (prompt, answers), which in conditions.items()),
    )


@dataclass(frozen=True)
class _Prompts:
    """Converts the prompts next to an edit; reports those that cannot be used.

    Attributes:
        fields: the record.
        edited: the prompts that ask for a new target.
        location: the location of the record.
        report: receives the prompts that are left out.
    """

    fields: EditFields
    edited: frozenset[str]
    location: SourceLocation
    report: SkipReport

    def kept(self, criterion: str, side: SidePrompt, rival: Answers) -> Probe | None:
        """Return the probe of a prompt whose answer stays; ``rival`` holds the spellings of the new target or none."""
        if SLOT in side.prompt:
            return self._skip(f"{criterion} prompt without a subject")
        if side.prompt in self.edited:
            return self._skip(f"{criterion} prompt that asks for the new target")
        # The comparison of target and rival is undefined if one is an accepted spelling of the other.
        if share_spelling(side.answers, rival):
            return self._skip("target equals rival")
        (true, *aliases), wrong = side.answers, next(iter(rival), "")
        return Probe(criterion, "completion", side.prompt, true, wrong, "unchanged", tuple(aliases))

    def consequence(self, criterion: str, side: SidePrompt) -> Probe | None:
        """Return the probe of a prompt whose answer follows from the edit."""
        fields, answers = self.fields, side.answers
        prompt = side.prompt.replace(SLOT, fields.subject)
        is_new, true = share_spelling(answers, fields.new), next(iter(fields.true), "")
        if prompt in self.edited and not is_new:
            return self._skip(f"{criterion} prompt that asks for the new target, with another answer")
        rival = side.rival or (true if is_new else "")
        if share_spelling(answers, (rival,)) or (rival and rival == true and share_spelling(answers, fields.true)):
            return self._skip("target equals rival")
        return Probe(criterion, "completion", prompt, answers[0], rival, "new", answers[1:])

    def _skip(self, reason: str) -> Probe | None:
        """Report a prompt, and return no probe."""
        self.report.skip_probe(self.location, reason)
        return None


def share_spelling(first: Answers, second: Answers) -> bool:
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
