"""The BLiMP reader: cases worked by hand, broken lines, and all published pairs."""

from __future__ import annotations

from collections import Counter

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.tasks.readers.blimp import UIDS

from tests.conftest import SHARED
from tests.unit.tasks.readers.samples import OTHER, PAIR, assert_well_formed, by_id, completion, put_lines, read_task

BLIMP = SHARED / "data/blimp"
needs_blimp = pytest.mark.skipif(not BLIMP.is_dir(), reason=f"needs paradigms of BLiMP in {BLIMP}")


def read_rows(tmp_path, *rows, uid="anaphor_gender_agreement"):
    put_lines(tmp_path / f"{uid}.jsonl", *rows)
    return read_task("blimp", uid, str(tmp_path))


def test_a_case_equals_the_one_worked_by_hand(tmp_path):
    task, report = read_rows(tmp_path, PAIR, OTHER)
    assert (len(task.cases), report.skipped) == (2, 0)
    assert task.name == "blimp-anaphor-gender-agreement"
    assert task.kind == "linguistic"
    assert_well_formed(task)
    case = by_id(task)["anaphor-gender-agreement-0000"]
    assert case.request == EditRequest("Katherine can't {}", "help", "himself", "herself")
    assert case.probes[:3] == (
        completion("reliability", "Katherine can't help", "himself", "herself"),
        Probe("symmetry", "minimal_pair", "", PAIR["sentence_bad"], PAIR["sentence_good"], "new"),
        completion("neighbourhood", "Mark hates", "himself", "herself", "unchanged"),
    )
    assert [(p.criterion, p.kind, p.target, p.rival, p.expect) for p in case.probes[3:]] == [
        ("specificity", "completion", "herself", "himself", "unchanged"),
        ("specificity", "completion", "herself", "himself", "unchanged"),
        ("specificity", "completion", "himself", "herself", "unchanged"),
    ]


def test_rows_without_published_prefixes_give_the_same_content(tmp_path):
    """The copy on the Hub has only the sentences, and the number in the field ``pair_id``."""
    kept = ("sentence_good", "sentence_bad", "one_prefix_method", "UID")
    bare = [{**{key: row[key] for key in kept}, "pair_id": n} for n, row in enumerate((PAIR, OTHER))]
    (one, _), (other, _) = read_rows(tmp_path, PAIR, OTHER), read_rows(tmp_path, *bare)
    assert one.content_hash() == other.content_hash()


def test_the_default_source_is_loaded_through_datasets(tmp_path, monkeypatch):
    import datasets

    def load(path, **options):
        assert (path, options) == ("nyu-mll/blimp", {"name": "anaphor_gender_agreement"})
        return datasets.DatasetDict(train=datasets.Dataset.from_list([PAIR, OTHER]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    task, _ = read_task("blimp", "anaphor_gender_agreement", None)
    assert task.content_hash() == read_rows(tmp_path, PAIR, OTHER)[0].content_hash()


def test_pairs_without_a_prefix(tmp_path):
    uid = "determiner_noun_agreement_2"
    shared = {"UID": uid, "one_prefix_method": False}
    rows = [
        {
            **shared,
            "sentence_good": "Some dog stunned this committee.",
            "sentence_bad": "Some dog stunned these committee.",
        },
        {**shared, "sentence_good": "Mark sees these cats.", "sentence_bad": "Mark sees this cats."},
        {**shared, "sentence_good": "These cats sleep.", "sentence_bad": "This cats sleep."},
        {**shared, "sentence_good": "Who sleeps.", "sentence_bad": "Who sleeps?"},
        {**shared, "sentence_good": "He left", "sentence_bad": "He left early"},
        {**shared, "sentence_good": "Same.", "sentence_bad": "Same."},
    ]
    task, report = read_rows(tmp_path, *rows, uid=uid)
    assert report.reasons == {
        "the sentences differ in their first word": 1,
        "the new target equals the true target": 1,
        "one sentence is a prefix of the other": 1,
        "the two sentences are equal": 1,
    }
    assert report.first == "line 3: the sentences differ in their first word"
    assert by_id(task)["determiner-noun-agreement-2-0000"].request == EditRequest(
        "Some dog {}", "stunned", "these committee", "this committee"
    )
    probes = by_id(task)["determiner-noun-agreement-2-0000"].probes
    assert probes[2] == Probe(
        "neighbourhood", "minimal_pair", "", "Mark sees these cats.", "Mark sees this cats.", "unchanged"
    )
    assert [(p.criterion, p.target, p.rival) for p in probes[3:]] == [
        ("specificity", "this committee", "these committee")
    ] * 3
    assert not any("stunned" in p.prompt for p in probes[3:])
    assert [pair["sentence_good"] for pair in task.pairs] == [row["sentence_good"] for row in rows[:5]]


def test_broken_and_foreign_lines_are_counted_and_the_rest_is_read(tmp_path):
    rows = [{**PAIR, "pairID": str(n)} for n in range(500)]
    rows[16] = b'{"sentence_good": "Katherine can'
    rows[99] = b'{"sentence_good": "\xff"}'
    rows[200] = [1, 2]
    rows[300] = {**PAIR, "UID": "wh_island"}
    rows[400] = {**PAIR, "pairID": "3"}
    rows[450] = {**PAIR, "sentence_bad": "\ud800"}
    rows[460] = {"a": 1}
    task, report = read_rows(tmp_path, *rows)
    assert (len(task.cases), report.skipped) == (493, 7)
    assert set(report.reasons.values()) == {1}
    assert sorted(report.reasons) == [
        "duplicate id",
        "field 'sentence_good' is missing",
        "not JSON",
        "not UTF-8",
        "not a JSON object",
        "row of another paradigm",
        "text is not valid Unicode",
    ]
    assert report.first == "line 17: not JSON"
    assert len(task.content_hash()) == 64


def test_an_unknown_or_missing_paradigm_is_an_error_that_suggests_one(tmp_path):
    assert len(UIDS) == len(set(UIDS)) == 67
    with pytest.raises(KnbenchError, match="did you mean 'anaphor_gender_agreement'"):
        read_task("blimp", "anaphor-gender-agreement", str(tmp_path))
    with pytest.raises(KnbenchError, match="needs a paradigm: use blimp:UID"):
        read_task("blimp", None, str(tmp_path))
    with pytest.raises(KnbenchError, match=r"no file or folder '.*wh_island.jsonl'; give the path"):
        read_task("blimp", "wh_island", str(tmp_path))


@needs_blimp
def test_published_data():
    """All 8000 pairs share a prefix and can be edited."""
    found = sorted(path.stem for path in BLIMP.glob("*.jsonl"))
    assert len(found) == 8
    for uid in found:
        task, report = read_task("blimp", uid, str(BLIMP))
        assert (len(task.cases), report.skipped) == (1000, 0)
        assert_well_formed(task)
        assert len(task.pairs) == 1000
        for case in task.cases:
            assert case.probes[1].target.startswith(f"{case.request.text} {case.request.target_new}")
            assert case.probes[1].rival.startswith(f"{case.request.text} {case.request.target_true}")
            count = Counter(p.criterion for p in case.probes)
            assert (count["neighbourhood"], count["specificity"]) == (4, 3)
            wanted = [p.target == case.request.target_true for p in case.probes if p.criterion == "specificity"]
            assert wanted == [True, True, uid.endswith("_2")]


@pytest.mark.parametrize("field", ["UID", "paradigm", "Paradigm"])
def test_rows_of_another_paradigm_are_skipped_whatever_the_field_is_called(tmp_path, field):
    rows = [{**{k: v for k, v in PAIR.items() if k != "UID"}, field: "haishi_ma"}, PAIR]
    task, report = read_rows(tmp_path, *rows)
    assert (len(task.cases), len(task.pairs)) == (1, 1)
    assert report.reasons == {"row of another paradigm": 1}


@pytest.mark.parametrize("yes", [True, "True", "TRUE", "1", 1])
@pytest.mark.parametrize("no", [False, "False", "FALSE", "0", 0])
def test_the_method_of_scoring_may_be_written_as_spreadsheets_do(tmp_path, yes, no):
    pairs = [{**PAIR, "one_prefix_prefix": "", "one_prefix_method": method, "pairID": str(n)}
             for n, method in enumerate((yes, no, "perhaps"))]  # fmt: skip
    pairs = [
        {**pair, "sentence_good": "Ann saw herself again.", "sentence_bad": "Ann saw himself again."} for pair in pairs
    ]
    task, report = read_rows(tmp_path, *pairs)
    assert [by_id(task)[f"anaphor-gender-agreement-000{n}"].request.target_new for n in (0, 1)] == [
        "himself",
        "himself again",
    ]
    assert report.reasons == {"field 'one_prefix_method' is neither true nor false": 1}


def test_sentences_that_differ_in_their_spaces_alone_are_equal(tmp_path):
    equal = {**PAIR, "sentence_bad": PAIR["sentence_good"].replace(" ", "  ")}
    task, report = read_rows(tmp_path, equal, OTHER)
    assert (len(task.pairs), report.reasons) == (1, {"the two sentences are equal": 1})
