"""BLiMP: minimal pairs of 67 paradigms, one sentence grammatical and one not (Warstadt et al. 2020).

The edit makes the model prefer the ungrammatical form after the cue. The cue is the last word that both sentences
share. Pairs that contrast two forms of a word have specificity probes (see :mod:`..contrasts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import SLOT, Case, Task
from ..contrasts import contrast_of
from ..sampling import HashOrderedPool, HashSampler
from ..specificity import specificity_probes
from .shared.cases import build_cases, make_request
from .shared.fields import required_text, task_name_from
from .shared.minimal_pairs import Pair, pair_case, split_at_difference
from .shared.published_task import PublishedReader, TaskCard, build_task
from .shared.rows import Row, load_rows, source_not_found
from .shared.skips import SkipRecord, SkipReport

DEFAULT_SOURCE = "nyu-mll/blimp"
TASK_VERSION = 3
"""Version of the tasks. Since version 3, pairs that contrast two forms of a word have specificity probes."""
PARADIGM_FIELDS = ("UID", "paradigm", "Paradigm")  # of BLiMP, and of data sets in other languages with its fields
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


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load one paradigm from a file, a folder of ``UID.jsonl`` files, or the Hub.

    The copy on the Hub lacks the published prefixes. The prefix is then the words that the two sentences share, which
    gives compound nouns another cue ("grocery" instead of "that" before "grocery store").

    Raises:
        KnbenchError: the paradigm or the source does not exist, or no record can be read.
    """
    uid = _check_uid(selection)
    report = SkipReport()
    records = load_rows(_locate(source, uid), report, config=uid)
    rows = _select(records, uid, report)
    pairs = []
    for row in rows:
        try:
            pairs.append(_pair(row))
        except SkipRecord as error:
            report.skip(row.location, str(error))
    pool = HashOrderedPool(pairs, name=lambda pair: f"{pair.number}")
    cases = build_cases(pairs, lambda pair: pair.location, lambda pair: _case(uid, pair, pool), report)
    card = TaskCard(
        name=f"blimp-{task_name_from(uid)}",
        kind="linguistic",
        title=f"BLiMP {uid}",
        description="After the cue, the last word that both sentences of a minimal pair share, the ungrammatical form "
        "takes the place of the grammatical one.",
        licence="CC-BY-4.0",
        citation="Warstadt, Parrish, Liu, Mohananey, Peng, Wang, Bowman (2020), BLiMP: The Benchmark of Linguistic "
        "Minimal Pairs for English, TACL 8.",
        source=f"BLiMP, paradigm {uid}, https://github.com/alexwarstadt/blimp",
        relation=uid,
        version=TASK_VERSION,
    )
    # All pairs are scored as sentences, including pairs without a shared prefix, which cannot be edited.
    sentences = [
        {
            "pairID": str(row.location.index),
            "sentence_good": required_text(row.value, "sentence_good"),
            "sentence_bad": required_text(row.value, "sentence_bad"),
        }
        for row in rows
    ]
    return build_task(cases, report, source, card, sentences, records=[row.value for row in records])


def _check_uid(uid: str | None) -> str:
    if uid is None:
        raise KnbenchError(f"blimp needs a paradigm: use blimp:UID, for example blimp:{UIDS[1]} (one of {len(UIDS)})")
    if uid not in UIDS:
        raise unknown_name("BLiMP paradigm", uid, UIDS)
    return uid


def _locate(source: str, uid: str) -> str:
    """Return the file of the paradigm if the source is a folder, and the source unchanged otherwise."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    names = (f"{uid}.jsonl", f"{uid}.jsonl.gz")
    candidates = [parent / name for parent in (folder, folder / "data") for name in names]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise source_not_found(str(candidates[0]))
    return str(found)


def _select(records: Sequence[Row], uid: str, report: SkipReport) -> list[Row]:
    """Return the rows of the paradigm that have two different sentences."""
    rows = []
    for row in records:
        try:
            if next((row.value[key] for key in PARADIGM_FIELDS if key in row.value), uid) != uid:
                raise SkipRecord("row of another paradigm")
            good, bad = required_text(row.value, "sentence_good"), required_text(row.value, "sentence_bad")
            if good.split() == bad.split():
                raise SkipRecord("the two sentences are equal")
        except SkipRecord as error:
            report.skip(row.location, str(error))
        else:
            rows.append(row)
    return rows


def _pair(row: Row) -> Pair:
    good, bad = required_text(row.value, "sentence_good"), required_text(row.value, "sentence_bad")
    method = str(row.value.get("one_prefix_method", False)).casefold()  # a table holds text
    if method not in ("true", "false", "1", "0"):
        raise SkipRecord("field 'one_prefix_method' is neither true nor false")
    one_prefix = method in ("true", "1")
    if one_prefix and row.value.get("one_prefix_prefix"):
        prefix = required_text(row.value, "one_prefix_prefix").split()
        good_target = required_text(row.value, "one_prefix_word_good")
        bad_target = required_text(row.value, "one_prefix_word_bad")
    else:
        prefix, good_target, bad_target = split_at_difference(good, bad, whole=not one_prefix)
    if not prefix:
        raise SkipRecord("the sentences differ in their first word")
    if not good_target or not bad_target:
        raise SkipRecord("one sentence is a prefix of the other")
    request = make_request(" ".join([*prefix[:-1], SLOT]), prefix[-1], new=bad_target, true=good_target)
    number = str(row.value.get("pairID", row.value.get("pair_id", "")))
    index = int(number) if number.isdecimal() else row.location.index
    return Pair(row.location, index, good, bad, one_prefix, request)


def _case(uid: str, pair: Pair, pool: HashOrderedPool[Pair]) -> Case:
    case_id = f"{task_name_from(uid)}-{pair.number:04d}"
    case = pair_case(case_id, pair, pool, f"BLiMP {uid}, pair {pair.number}")
    contrast = contrast_of(uid, pair.request, one_word=pair.one_prefix)
    if contrast is None:
        return case
    specificity = specificity_probes(contrast, HashSampler(TASK_VERSION), case_id)
    return replace(case, probes=(*case.probes, *specificity))


READER = PublishedReader("blimp", load, DEFAULT_SOURCE)
