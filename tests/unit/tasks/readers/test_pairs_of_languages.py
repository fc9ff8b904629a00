"""Readers of minimal pairs in other languages: edits where a shared beginning exists, sentence scores elsewhere."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest

from tests.unit.tasks.readers.samples import assert_well_formed, by_id, completion, put_lines, read_task


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


RUSSIAN = [
    {"id": "7", "source_sentence": "Она рисует птиц.", "target_sentence": "Она рисуют птиц.", "PID": "verb_number"},
    {"id": "8", "source_sentence": "Дети рисуют птиц.", "target_sentence": "Дети рисует птиц.", "PID": "verb_number"},
    {"id": "9", "source_sentence": "Рисуют дети.", "target_sentence": "Рисует дети.", "PID": "verb_number"},
]
CHINESE = [
    {"sentence_good": "他说，她们在喝茶。", "sentence_bad": "他说，她们茶在喝。", "pair_ID": 0, "Paradigm": "SOV"},
    {"sentence_good": "是茶还是水?", "sentence_bad": "是茶还是水吗?", "pair_ID": 1, "paradigm": "haishi"},
]


def test_a_pair_that_differs_in_one_word_is_scored_by_that_word(tmp_path):
    task, report = read_task("rublimp", None, put_lines(tmp_path / "a.jsonl", *RUSSIAN))
    assert_well_formed(task)
    case = by_id(task)["rublimp-00007"]
    assert case.request == EditRequest("{}", "Она", "рисуют", "рисует")
    assert case.probes[0] == completion("reliability", "Она", "рисуют", "рисует")
    assert case.probes[2:] == (completion("neighbourhood", "Дети", "рисуют", "рисует", "unchanged"),)
    # The third pair differs at once: it is scored as two sentences.
    assert [pair["sentence_good"] for pair in task.pairs] == [row["source_sentence"] for row in RUSSIAN]
    assert report.reasons == {"no edit, scored as sentences: the sentences differ in their first word": 1}


def test_in_a_script_without_spaces_the_cue_is_the_shared_text_after_the_last_mark(tmp_path):
    task, report = read_task("sling", None, put_lines(tmp_path / "a.jsonl", *CHINESE))
    (case,) = task.cases
    assert case.request == EditRequest("他说，{}", "她们", "茶在喝", "在喝茶")
    assert (case.probes[1].target, case.probes[1].rival) == ("他说，她们茶在喝。", "他说，她们在喝茶。")
    assert report.reasons == {"no edit, scored as sentences: one sentence is a prefix of the other": 1}
    assert len(task.pairs) == 2
    chosen, _ = read_task("sling", "SOV", str(tmp_path / "a.jsonl"))
    assert (len(chosen.pairs), chosen.name) == (1, "sling-sov")
    with pytest.raises(KnbenchError, match="no pair of paradigm 'x'; paradigms: haishi, sov"):
        read_task("sling", "x", str(tmp_path / "a.jsonl"))


def test_other_field_names(tmp_path):
    japanese = {
        "ID": 4,
        "good_sentence": "太郎が花子に会う。",
        "bad_sentence": "太郎が花子を会う。",
        "paradigm": "case",
    }
    (case,) = read_task("jblimp", None, put_lines(tmp_path / "j.jsonl", japanese))[0].cases
    assert (case.id, case.request.target_true, case.request.target_new) == ("jblimp-00004", "に会う", "を会う")
    zho = {"UID": "SOV", "phenomenon": "p", "sentence_good": "你在看书。", "sentence_bad": "你书在看。", "pairID": 5}
    (case,) = read_task("zhoblimp", None, put_lines(tmp_path / "z.jsonl", zho))[0].cases
    assert (case.id, case.request) == ("zhoblimp-00005", EditRequest("{}", "你", "书在看", "在看书"))
    table = "\tsen\twrong_sen\tprefix\tphenomenon\n0\tOna okuyor.\tOna okuyorum.\tOna\tSV\n"
    (case,) = read_task("multiblimp", None, write(tmp_path / "m.tsv", table))[0].cases
    assert case.request == EditRequest("{}", "Ona", "okuyorum", "okuyor")


def test_clams_has_lines_of_verdicts(tmp_path):
    folder = tmp_path / "de_evalset"
    folder.mkdir()
    lines = "True\tder Autor lacht\nFalse\tder Autor lachen\nFalse\tder Autor lache\nTrue\tdie Autoren lachen\nx\n"
    file = write(folder / "simple_agrmt.txt", lines)
    task, report = read_task("clams", "de/simple_agrmt", str(tmp_path))
    assert task.name == "clams-de-simple-agrmt"
    assert {(c.request.text, c.request.target_true, c.request.target_new) for c in task.cases} == {
        ("der Autor", "lacht", "lachen"),
        ("der Autor", "lacht", "lache"),
    }
    assert report.reasons == {"not True or False, a tab and a sentence": 1}
    assert len(read_task("clams", None, file)[0].cases) == 2
    with pytest.raises(KnbenchError, match="clams needs a language and a paradigm for a folder"):
        read_task("clams", None, str(tmp_path))
    with pytest.raises(KnbenchError, match="no file or folder"):
        read_task("clams", "de/other", str(tmp_path))
    with pytest.raises(KnbenchError, match="not CLAMS data: expected lines of True or False"):
        read_task("clams", None, write(tmp_path / "other.txt", "Some text.\n"))
