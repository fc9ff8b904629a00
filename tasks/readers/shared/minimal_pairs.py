"""Builds edit tasks from minimal pairs: two sentences of which one is grammatical.

The edit makes the model prefer the ungrammatical form after the cue, the last word that both sentences share. In
scripts without spaces, the cue is the shared text after the last mark. A pair whose sentences differ at once has no
cue; it is scored as two sentences and cannot be edited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ....benchmark.core.errors import KnbenchError
from ....benchmark.core.schema import SLOT, Case, EditRequest, Probe, Task
from ....benchmark.core.text import is_unspaced
from ...sampling import HashOrderedPool
from .cases import NEIGHBOURHOOD_PROBES, build_cases, make_request
from .fields import equal_ignoring_case, task_name_from
from .published_task import TaskCard, build_task
from .rows import Row
from .skips import SkipRecord, SkipReport, SourceLocation

DESCRIPTION = (
    "After the cue, the shared beginning of a minimal pair, the ungrammatical form takes the place of the "
    "grammatical one."
)
"""Description of the tasks."""
MARKS = ".?!,;:。？！，、；： "
_AFTER_MARK = re.compile(r"[^\w]")


class Pair(NamedTuple):
    """A minimal pair from which an edit can be made.

    Attributes:
        location: the location of the record.
        number: the pair's number in the published data; the index of the record if that has none.
        good: the grammatical sentence.
        bad: the ungrammatical sentence.
        one_prefix: whether BLiMP scores the pair by its one-prefix method: a shared prefix and one word after it.
        request: the edit request.
    """

    location: SourceLocation
    number: int
    good: str
    bad: str
    one_prefix: bool
    request: EditRequest


@dataclass(frozen=True)
class Sentences:
    """The two sentences of a record, independent of the names of their fields.

    Attributes:
        location: the location of the record.
        number: the pair's number in the published data.
        good: the grammatical sentence.
        bad: the ungrammatical sentence.
        paradigm: the name of the paradigm; empty if the record has none.
    """

    location: SourceLocation
    number: int
    good: str
    bad: str
    paradigm: str = ""


def build_pair_task(
    rows: Sequence[Row],
    parse: Callable[[Row], Sentences],
    report: SkipReport,
    source: str,
    card: TaskCard,
    selection: str | None = None,
) -> tuple[Task, SkipReport]:
    """Return the task of a data set of minimal pairs.

    Args:
        rows: the records.
        parse: converts a record; raises ``SkipRecord`` if that is impossible.
        report: counts the skipped records.
        source: the source as error messages name it.
        card: the provenance of the task.
        selection: the paradigm to read, in any spelling of its words; all paradigms if None.

    Raises:
        KnbenchError: no record can be read, or none is of the selected paradigm.
    """
    found, paradigms = [], set[str]()
    for row in rows:
        try:
            sentences = parse(row)
            paradigms.add(sentences.paradigm)
            if selection is not None and task_name_from(sentences.paradigm) != task_name_from(selection):
                continue
            if sentences.good.split() == sentences.bad.split():
                raise SkipRecord("the two sentences are equal")
            found.append(sentences)
        except SkipRecord as error:
            report.skip(row.location, str(error))
    if selection is not None and not found and paradigms:
        names = ", ".join(sorted(map(task_name_from, filter(None, paradigms)))) or "none"
        raise KnbenchError(f"{source}: no pair of paradigm '{selection}'; paradigms: {names}")
    pairs = []
    for sentences in found:
        try:
            pairs.append(pair_of(sentences))
        except SkipRecord as error:
            report.skip(sentences.location, f"no edit, scored as sentences: {error}")
    pool = HashOrderedPool(pairs, name=lambda pair: f"{pair.number}")

    def make(pair: Pair) -> Case:
        return pair_case(f"{card.name}-{pair.number:05d}", pair, pool, f"{card.title}, pair {pair.number}")

    cases = build_cases(pairs, lambda pair: pair.location, make, report)
    scored = [{"pairID": str(s.location.index), "sentence_good": s.good, "sentence_bad": s.bad} for s in found]
    return build_task(cases, report, source, card, scored, records=[row.value for row in rows])


def pair_of(sentences: Sentences) -> Pair:
    """Return the edit of a pair: after the cue, the ungrammatical continuation replaces the grammatical one.

    If the sentences differ in one word, the continuations are this word. Otherwise they run to the end.

    Raises:
        SkipRecord: the sentences share no beginning, or one is the beginning of the other.
    """
    good, bad = sentences.good, sentences.bad
    if any(map(is_unspaced, good)) and not good.isascii():
        prompt, cue, good_target, bad_target = _split_unspaced(good, bad)
        one_word = False
    else:
        good_words, bad_words = good.split(), bad.split()
        shared = shared_words(good_words, bad_words)
        one_word = good_words[shared + 1 :] == bad_words[shared + 1 :]
        prefix, good_target, bad_target = split_at_difference(good, bad, whole=not one_word)
        prompt, cue = " ".join([*prefix[:-1], SLOT]), (prefix or [""])[-1]
    if not cue:
        raise SkipRecord("the sentences differ in their first word")
    if not good_target or not bad_target:
        raise SkipRecord("one sentence is a prefix of the other")
    request = make_request(prompt, cue, new=bad_target, true=good_target)
    return Pair(sentences.location, sentences.number, good, bad, one_word, request)


def pair_case(case_id: str, pair: Pair, pool: HashOrderedPool[Pair], source: str) -> Case:
    """Return the case of a pair, with reliability, symmetry and neighbourhood probes.

    Args:
        case_id: identifier of the case.
        pair: the pair.
        pool: all pairs of the task, from which neighbours with another cue are drawn.
        source: origin of the case's data.
    """
    request = pair.request
    probes = [
        Probe("reliability", "completion", request.text, request.target_new, request.target_true, "new"),
        Probe("symmetry", "minimal_pair", "", pair.bad, pair.good, "new"),
    ]

    def has_other_cue(other: Pair) -> bool:
        return not equal_ignoring_case(other.request.subject, request.subject)

    for other in pool.pick(case_id, NEIGHBOURHOOD_PROBES, has_other_cue):
        if other.one_prefix:
            prompt, good, bad = other.request.text, other.request.target_true, other.request.target_new
            probes.append(Probe("neighbourhood", "completion", prompt, good, bad, "unchanged"))
        else:
            probes.append(Probe("neighbourhood", "minimal_pair", "", other.good, other.bad, "unchanged"))
    return Case(id=case_id, request=request, probes=tuple(probes), source=source)


def shared_words(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of words with which both lists begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def split_at_difference(good: str, bad: str, *, whole: bool) -> tuple[list[str], str, str]:
    """Split two sentences after their shared words.

    Args:
        good: the grammatical sentence.
        bad: the ungrammatical sentence.
        whole: whether a continuation runs to the end of its sentence; otherwise it is one word.

    Returns:
        The shared words, the continuation of ``good`` and that of ``bad``, without final punctuation.
    """
    good_words, bad_words = good.split(), bad.split()
    shared = shared_words(good_words, bad_words)
    end = None if whole else shared + 1
    good_target, bad_target = (" ".join(words[shared:end]).rstrip(".?!,;: ") for words in (good_words, bad_words))
    return good_words[:shared], good_target, bad_target


def _split_unspaced(good: str, bad: str) -> tuple[str, str, str, str]:
    """Return prompt, cue and both continuations of two sentences in a script without spaces."""
    shared = shared_words(good, bad)
    prefix = good[:shared].rstrip()
    start = max((match.end() for match in _AFTER_MARK.finditer(prefix)), default=0)
    good_target, bad_target = (text[shared:].strip(MARKS) for text in (good, bad))
    return f"{prefix[:start]}{SLOT}", prefix[start:], good_target, bad_target
