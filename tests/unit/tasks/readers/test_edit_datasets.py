"""The readers of CounterFact, zsRE and KnowEdit."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest
from knbench.tasks.readers.shared.fields import with_slot
from knbench.tasks.readers.shared.skips import SkipRecord

from tests.unit.tasks.readers.samples import (
    COUNTERFACT,
    EASYEDIT,
    KNOWEDIT,
    MEND,
    assert_well_formed,
    by_id,
    completion,
    put,
    put_lines,
    read_task,
)


def only_case(reader, path, selection=None):
    task, report = read_task(reader, selection, path)
    assert (len(task.cases), report.skipped) == (1, 0)
    assert_well_formed(task)
    return task, task.cases[0]


def test_counterfact_case_equals_the_one_worked_by_hand(tmp_path):
    task, case = only_case("counterfact", put(tmp_path / "c.json", [COUNTERFACT]))
    assert (task.name, case.id) == ("counterfact", "counterfact-00007")
    assert case.request == EditRequest("The mother tongue of {} is", "Danielle Darrieux", "English", "French")
    assert case.probes == (
        completion("reliability", "The mother tongue of Danielle Darrieux is", "English", "French"),
        completion("paraphrase", "Danielle Darrieux spoke the language", "English", "French"),
        completion("neighbourhood", "The mother tongue of Henri Barbusse is", "French", "English", "unchanged"),
    )


def test_a_list_lines_lines_named_json_and_parquet_give_the_same_content(tmp_path):
    import datasets

    rows = [COUNTERFACT, {**COUNTERFACT, "case_id": 8}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "c.parquet")
    sources = [
        put(tmp_path / "list.json", rows),
        put_lines(tmp_path / "lines.jsonl", *rows),
        put_lines(tmp_path / "lines.json", *rows),
        str(tmp_path / "c.parquet"),
    ]
    assert len({read_task("counterfact", None, source)[0].content_hash() for source in sources}) == 1


def test_zsre_case_in_both_formats_equals_the_one_worked_by_hand(tmp_path):
    task, case = only_case("zsre", put(tmp_path / "mend.json", [MEND]))
    assert (task.name, case.id) == ("zsre", "zsre-00000")
    new, true = "University of Michigan", "Illinois Institute of Technology"
    assert case.request == EditRequest("What university did {} attend?", "Watts Humphrey", new, true)
    asked = "who played desmond doss father in hacksaw ridge?"
    assert case.probes == (
        completion("reliability", "What university did Watts Humphrey attend?", new, true),
        completion("paraphrase", "What university did Watts Humphrey take part in?", new, true),
        completion("neighbourhood", asked, "Hugo Weaving", new, "unchanged"),
    )
    assert only_case("zsre", put(tmp_path / "easy.json", [EASYEDIT]))[1] == case


def test_knowedit_case_equals_the_one_worked_by_hand(tmp_path):
    task, case = only_case("knowedit", put(tmp_path / "k.json", [KNOWEDIT]), "wiki_counterfact")
    assert (task.name, case.id) == ("knowedit-wiki-counterfact", "knowedit-wiki-counterfact-00000")
    true = "United States of America"
    country = "The name of the country of citizenship of"
    assert case.request == EditRequest(f"{country} {{}} is", "Leonardo DiCaprio", "Syria", true)
    capital = "The capital of Leonardo DiCaprio's country is"
    forgotten = "Leonardo DiCaprio's country, which is not Syria, is"
    assert case.probes == (
        completion("reliability", f"{country} Leonardo DiCaprio is", "Syria", true),
        completion("paraphrase", "Leonardo DiCaprio is a citizen of", "Syria", true),
        completion("neighbourhood", "The gender of Leonardo DiCaprio is", "male", "Syria", "unchanged"),
        completion("neighbourhood", forgotten, "USA", "Syria", "unchanged"),
        completion("portability", capital, "Damascus", "", "new", ("Sham",)),
        completion("portability", "Leo is a citizen of", "Syria", true),
    )
    assert task.criteria == ("reliability", "paraphrase", "portability", "neighbourhood")
    unnamed = only_case("knowedit", str(tmp_path))
    assert (unnamed[0].name, replace(unnamed[1], id="", source="")) == ("knowedit", replace(case, id="", source=""))


def test_knowedit_parts_are_found_in_a_folder_with_the_published_structure(tmp_path):
    (tmp_path / "benchmark/ZsRE").mkdir(parents=True)
    put(tmp_path / "benchmark/ZsRE/ZsRE-test-all.json", [EASYEDIT])
    assert read_task("knowedit", "zsre", str(tmp_path))[0].name == "knowedit-zsre"
    with pytest.raises(KnbenchError, match=r"no file or folder '.*test_cf.json'"):
        read_task("knowedit", "wiki_counterfact", str(tmp_path))
    with pytest.raises(KnbenchError, match="did you mean 'zsre'"):
        read_task("knowedit", "zsr", str(tmp_path))
    with pytest.raises(
        KnbenchError, match="select one of: convsent, sanitation, wiki_counterfact, wiki_recent, wikibio, zsre"
    ):
        read_task("knowedit", None, None)


@pytest.mark.parametrize(
    "name",
    [
        "benchmark_wiki_counterfact_test_cf.json",
        "wiki_counterfact_test_cf.json",
        "test_cf.json",
        "wiki_counterfact/test_cf.json",
        "benchmark/wiki_counterfact/test_cf.json.gz",
    ],
)
def test_knowedit_parts_are_found_under_the_names_of_copies(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    put(tmp_path / name, [KNOWEDIT])
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    put(tmp_path / "benchmark_ZsRE_ZsRE-train-all.json", [EASYEDIT])
    assert read_task("knowedit", "wiki_counterfact", str(tmp_path))[0].name == "knowedit-wiki-counterfact"
    with pytest.raises(KnbenchError, match="no file or folder"):
        read_task("knowedit", "zsre", str(tmp_path))


def test_files_on_the_hub_are_read_as_text(monkeypatch):
    """The JSON reader of the library rejects answers that are strings in some records and lists in others."""
    import datasets

    def load(builder, **options):
        assert builder == "text"
        assert options["data_files"] == "hf://datasets/zjunlp/KnowEdit/benchmark/ZsRE/ZsRE-test-all.json"
        return datasets.Dataset.from_list([{"text": json.dumps([EASYEDIT, {**KNOWEDIT, "case_id": 1}])}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(read_task("knowedit", "zsre")[0].cases) == 2
    assert len(read_task("zsre")[0].cases) == 2


def test_skipped_records_and_probes_are_counted_by_reason(tmp_path):
    useless = {"Reasoning": [{"prompt": "And then?", "ground_truth": ["Syria", "USA"]}, {"prompt": "No answer"}]}
    entries = [
        KNOWEDIT,
        {**KNOWEDIT, "ground_truth": "syria"},
        {**KNOWEDIT, "ground_truth": None},
        {**KNOWEDIT, "ground_truth": ["<|endoftext|>"]},
        {**KNOWEDIT, "subject": "Leonardo Di"},  # a part of a word does not match
        {**KNOWEDIT, "target_new": []},
        {**KNOWEDIT, "target_new": 1.5},
        {**KNOWEDIT, "target_new": True},
        {**KNOWEDIT, "subject": " "},
        {**KNOWEDIT, "subject": ["Leonardo DiCaprio"]},
        {**KNOWEDIT, "prompt": ""},
        {**KNOWEDIT, "ground_truth": "USA", "portability": useless},
        {**KNOWEDIT, "prompt": "{} and {}: Leonardo DiCaprio is"},
        5,
    ]
    task, report = read_task("knowedit", None, put(tmp_path / "k.json", entries))
    # The number with a fraction is read as it is written.
    assert {int(case.id[-5:]) for case in task.cases} == {0, 2, 3, 6, 11}
    assert {by_id(task)[f"knowedit-0000{n}"].request.target_true for n in (2, 3)} == {""}  # no true answer
    assert by_id(task)["knowedit-00006"].request.target_new == "1.5"
    assert "portability" not in {probe.criterion for probe in by_id(task)["knowedit-00011"].probes}
    assert report.skipped == 9
    assert report.reasons == {
        "the new target equals the true target": 1,
        "the subject does not occur in the prompt": 1,
        "field 'target_new' is empty": 1,
        "field 'target_new' is not a string": 1,
        "field 'subject' is empty": 1,
        "field 'subject' is a list, one string was expected": 1,
        "field 'prompt' is empty": 1,
        "probe skipped: target equals rival": 1,
        "probe skipped: portability: not exactly one prompt with an answer": 1,
        "the prompt does not contain exactly one slot for the subject": 1,
        "not a JSON object": 1,
    }
    assert report.first == "entry 2: the new target equals the true target"
    assert_well_formed(task)


def test_answers_that_differ_in_their_encoding_alone_are_equal(tmp_path):
    records = [
        {**KNOWEDIT, "target_new": "Peru\u0301", "ground_truth": "Perú"},
        {**KNOWEDIT, "target_new": "Ｐｅｒｕ", "ground_truth": ["Chile", "Peru"]},
        {**KNOWEDIT, "target_new": "New  Zealand", "ground_truth": "New Zealand"},
        {**KNOWEDIT, "locality": {"a": [{"prompt": "Lima is in", "ground_truth": "s\u200byria"}]}},
    ]
    task, report = read_task("knowedit", None, put(tmp_path / "k.json", records))
    assert report.reasons == {"the new target equals the true target": 3, "probe skipped: target equals rival": 1}
    assert "neighbourhood" not in {probe.criterion for probe in task.cases[0].probes}


def test_a_prompt_with_two_expected_answers_asks_for_the_new_target_alone(tmp_path):
    """The edited prompt and its paraphrases cannot keep an answer that the edit replaces."""
    edited, paraphrase = KNOWEDIT["prompt"], KNOWEDIT["rephrase"][0]
    prompts = [(edited, "USA"), (paraphrase, "USA"), ("Lima is in", "Peru")]
    locality = {"a": [{"prompt": prompt, "ground_truth": answer} for prompt, answer in prompts]}
    portability = {"b": [{"prompt": edited, "ground_truth": "Peru"}, {"prompt": paraphrase, "ground_truth": "Syria"}]}
    record = {**KNOWEDIT, "locality": locality, "portability": portability}
    task, report = read_task("knowedit", None, put(tmp_path / "k.json", [record]))
    found = [(p.criterion, p.prompt, p.target) for p in task.cases[0].probes]
    assert found == [
        ("reliability", edited, "Syria"),
        ("paraphrase", paraphrase, "Syria"),
        ("neighbourhood", "Lima is in", "Peru"),
        ("portability", paraphrase, "Syria"),
    ]
    assert report.reasons == {
        "probe skipped: neighbourhood prompt that asks for the new target": 2,
        "probe skipped: portability prompt that asks for the new target, with another answer": 1,
    }


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("रामायण में राम के पिता", "राम", "रामायण में {} के पिता"),  # Ramayana, Rama
        ("The capitals of Lima\u0301n and Lima are", "Lima", "The capitals of Lima\u0301n and {} are"),
        ("北京的首都是", "北京", "{}的首都是"),
        ("서울은", "서울", "{}은"),
        ("Obama's_x Obama's", "Obama", "{}'s_x Obama's"),
        ("Obama_x Obama's", "Obama", "Obama_x {}'s"),
    ],
)
def test_the_slot_of_a_subject_is_a_whole_word(prompt, subject, expected):
    assert with_slot(prompt, subject) == expected


@pytest.mark.parametrize(("prompt", "subject"), [("रामायण किसने लिखी", "राम"), ("กิน", "ก")])
def test_a_subject_before_a_vowel_sign_is_a_part_of_another_word(prompt, subject):
    with pytest.raises(SkipRecord, match="the subject does not occur"):
        with_slot(prompt, subject)
