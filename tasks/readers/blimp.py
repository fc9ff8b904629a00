"""BLiMP: minimal pairs, one grammatical and one not, of 67 paradigms (Warstadt et al. 2020).

The edit makes the model prefer the ungrammatical form after the cue, the last word that both sentences share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import SLOT, Case, EditRequest, Probe, Task
from .common import (
    NEIGHBOURS,
    Card,
    Place,
    ReadReport,
    Ring,
    Row,
    Tally,
    Unfit,
    build_cases,
    finish,
    load_rows,
    make_request,
    missing,
    nothing_read,
    same,
    slug,
    text,
)

DEFAULT = "nyu-mll/blimp"
UIDS = (
    "adjunct_island",
    "anaphor_gender_agreement",
    "anaphor_number_agreement",
    "animate_subject_passive",
    "animate_subject_trans",
    "causative",
    "complex_NP_island",
    "coordinate_structure_constraint_complex_left_branch",
    "coordinate_structure_constraint_object_extraction",
    "determiner_noun_agreement_1",
    "determiner_noun_agreement_2",
    "determiner_noun_agreement_irregular_1",
    "determiner_noun_agreement_irregular_2",
    "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_with_adj_irregular_1",
    "determiner_noun_agreement_with_adj_irregular_2",
    "determiner_noun_agreement_with_adjective_1",
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "drop_argument",
    "ellipsis_n_bar_1",
    "ellipsis_n_bar_2",
    "existential_there_object_raising",
    "existential_there_quantifiers_1",
    "existential_there_quantifiers_2",
    "existential_there_subject_raising",
    "expletive_it_object_raising",
    "inchoative",
    "intransitive",
    "irregular_past_participle_adjectives",
    "irregular_past_participle_verbs",
    "irregular_plural_subject_verb_agreement_1",
    "irregular_plural_subject_verb_agreement_2",
    "left_branch_island_echo_question",
    "left_branch_island_simple_question",
    "matrix_question_npi_licensor_present",
    "npi_present_1",
    "npi_present_2",
    "only_npi_licensor_present",
    "only_npi_scope",
    "passive_1",
    "passive_2",
    "principle_A_c_command",
    "principle_A_case_1",
    "principle_A_case_2",
    "principle_A_domain_1",
    "principle_A_domain_2",
    "principle_A_domain_3",
    "principle_A_reconstruction",
    "regular_plural_subject_verb_agreement_1",
    "regular_plural_subject_verb_agreement_2",
    "sentential_negation_npi_licensor_present",
    "sentential_negation_npi_scope",
    "sentential_subject_island",
    "superlative_quantifiers_1",
    "superlative_quantifiers_2",
    "tough_vs_raising_1",
    "tough_vs_raising_2",
    "transitive",
    "wh_island",
    "wh_questions_object_gap",
    "wh_questions_subject_gap",
    "wh_questions_subject_gap_long_distance",
    "wh_vs_that_no_gap",
    "wh_vs_that_no_gap_long_distance",
    "wh_vs_that_with_gap",
    "wh_vs_that_with_gap_long_distance",
)


class Pair(NamedTuple):
    """A pair that can be edited."""

    place: Place
    number: int
    good: str
    bad: str
    one_prefix: bool
    request: EditRequest


def read(selection: str | None, source: str) -> tuple[Task, ReadReport]:
    """Read one paradigm from a file, a folder of ``UID.jsonl``, or the hub.

    The hub's copy lacks the published prefixes; they are then the words that the two sentences share, which makes
    another cue of a compound noun ("grocery" for "that" before "grocery store").

    Raises:
        KnbenchError: no such paradigm, no such file, or nothing could be read.
    """
    uid = _known(selection)
    rows, tally = _load(source, uid)
    pairs = []
    for row in rows:
        try:
            pairs.append(_pair(row))
        except Unfit as unfit:
            tally.skip(row.place, str(unfit))
    ring = Ring(pairs, name=lambda pair: f"{pair.number}")
    cases = build_cases(pairs, lambda pair: pair.place, lambda pair: _case(uid, pair, ring), tally)
    card = Card(
        name=f"blimp-{slug(uid)}",
        kind="linguistic",
        title=f"BLiMP {uid}",
        description="After the cue, the last word that both sentences of a minimal pair share, the ungrammatical form "
        "takes the place of the grammatical one.",
        licence="CC-BY-4.0",
        citation="Warstadt, Parrish, Liu, Mohananey, Peng, Wang, Bowman (2020), BLiMP: The Benchmark of Linguistic "
        "Minimal Pairs for English, TACL 8.",
        source=f"BLiMP, paradigm {uid}, https://github.com/alexwarstadt/blimp",
        relation=uid,
    )
    # Every pair is scored as sentences, also those that differ from the first word on and so cannot be edited.
    sentences = [
        {
            "pairID": str(row.place.number),
            "sentence_good": text(row.value, "sentence_good"),
            "sentence_bad": text(row.value, "sentence_bad"),
        }
        for row in rows
    ]
    return finish(cases, tally, source, card, sentences)


def read_pairs(source: str | None, uid: str) -> tuple[list[dict[str, Any]], ReadReport]:
    """Return the raw rows of a paradigm, editable or not, with the account of the reading.

    Raises:
        KnbenchError: no such paradigm, no such file, or nothing could be read.
    """
    source = source or DEFAULT
    rows, tally = _load(source, _known(uid))
    report = tally.report(len(rows))
    if not rows:
        raise nothing_read(source, report)
    return [row.value for row in rows], report


def _known(uid: str | None) -> str:
    if uid is None:
        raise KnbenchError(f"blimp needs the name of a paradigm, such as '{UIDS[1]}'; there are {len(UIDS)}")
    if uid not in UIDS:
        raise unknown_name("BLiMP paradigm", uid, UIDS)
    return uid


def _load(source: str, uid: str) -> tuple[list[Row], Tally]:
    """Return the rows that hold a pair of the paradigm."""
    folder = Path(source)
    if folder.is_dir():
        tried = [folder / f"{uid}.jsonl", folder / "data" / f"{uid}.jsonl"]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise missing(str(tried[0]))
        source = str(found)
    tally = Tally()
    pairs = []
    for row in load_rows(source, tally, config=uid):
        try:
            if row.value.get("UID", uid) != uid:
                raise Unfit("a row of another paradigm")
            good, bad = text(row.value, "sentence_good"), text(row.value, "sentence_bad")
            if good == bad:
                raise Unfit("the two sentences are the same")
        except Unfit as unfit:
            tally.skip(row.place, str(unfit))
        else:
            pairs.append(row)
    return pairs, tally


def _pair(row: Row) -> Pair:
    good, bad = text(row.value, "sentence_good"), text(row.value, "sentence_bad")
    one_prefix = row.value.get("one_prefix_method") is True
    if one_prefix and row.value.get("one_prefix_prefix"):
        prefix = text(row.value, "one_prefix_prefix").split()
        right, wrong = text(row.value, "one_prefix_word_good"), text(row.value, "one_prefix_word_bad")
    else:
        prefix, right, wrong = _part(good, bad, whole=not one_prefix)
    if not prefix:
        raise Unfit("the sentences differ from the first word on")
    if not right or not wrong:
        raise Unfit("one sentence ends where the other goes on")
    request = make_request(" ".join([*prefix[:-1], SLOT]), prefix[-1], new=wrong, true=right)
    number = str(row.value.get("pairID", row.value.get("pair_id", "")))
    return Pair(row.place, int(number) if number.isdecimal() else row.place.number, good, bad, one_prefix, request)


def _part(good: str, bad: str, *, whole: bool) -> tuple[list[str], str, str]:
    """Return the words that both sentences begin with, and how each goes on: to its end, or by one word."""
    rights, wrongs = good.split(), bad.split()
    shared = 0
    while shared < min(len(rights), len(wrongs)) and rights[shared] == wrongs[shared]:
        shared += 1
    end = None if whole else shared + 1
    right, wrong = (" ".join(words[shared:end]).rstrip(".?!,;: ") for words in (rights, wrongs))
    return rights[:shared], right, wrong


def _case(uid: str, pair: Pair, ring: Ring[Pair]) -> Case:
    request = pair.request
    new, true = request.target_new, request.target_true
    probes = [
        Probe("reliability", "completion", request.text, new, true, "new"),
        Probe("symmetry", "minimal_pair", "", pair.bad, pair.good, "new"),
    ]
    case_id = f"{slug(uid)}-{pair.number:04d}"
    for other in ring.pick(case_id, NEIGHBOURS, lambda o: not same(o.request.subject, request.subject)):
        if other.one_prefix:
            asked = other.request
            prompt, right, wrong = asked.text, asked.target_true, asked.target_new
            probes.append(Probe("neighbourhood", "completion", prompt, right, wrong, "unchanged"))
        else:
            probes.append(Probe("neighbourhood", "minimal_pair", "", other.good, other.bad, "unchanged"))
    return Case(id=case_id, request=request, probes=tuple(probes), source=f"BLiMP {uid}, pair {pair.number}")
