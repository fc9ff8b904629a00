from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.tasks import readers
from knbench.tasks.readers import READERS, common, read_task
from knbench.tasks.readers.blimp import UIDS, read_pairs
from knbench.tasks.readers.common import CRITERIA

from tests.conftest import SHARED

PARAREL = SHARED / "data/pararel/data_all_allbags.json"
BLIMP = SHARED / "data/blimp"
needs_pararel = pytest.mark.skipif(not PARAREL.is_file(), reason=f"needs ParaRel at {PARAREL}")
needs_blimp = pytest.mark.skipif(not BLIMP.is_dir(), reason=f"needs paradigms of BLiMP in {BLIMP}")

P36 = ("The capital of {} is [MASK] .", "[MASK] is the capital of {}.", "{}'s capital city, [MASK].")
P1376 = ("The capital of [MASK] is {}.", "{} is the capital of [MASK].")
P101 = ("{} works in the field of [MASK].",)


def bag(patterns, relation, subject, answer):
    return [[pattern.replace("{}", subject), answer, relation] for pattern in patterns]


def capitals(*facts):
    return [bag(P36, "P36(capital)", subject, answer) for subject, answer in facts]


CAPITALS = capitals(("Canada", "Ottawa"), ("Italy", "Rome"), ("France", "Paris"), ("Kingdom of Italy", "Rome"))
SAMPLE = {"P36": CAPITALS, "P1376": [bag(P1376, "P1376(capital of)", *f) for f in (("Oslo", "Norway"), ("Bern", "Y"))]}

PAIR = {
    "sentence_good": "Katherine can't help herself.",
    "sentence_bad": "Katherine can't help himself.",
    "one_prefix_prefix": "Katherine can't help",
    "one_prefix_word_good": "herself",
    "one_prefix_word_bad": "himself",
    "one_prefix_method": True,
    "UID": "anaphor_gender_agreement",
    "pairID": "0",
}
OTHER = {
    **PAIR,
    "sentence_good": "Mark hates himself.",
    "sentence_bad": "Mark hates herself.",
    "one_prefix_prefix": "Mark hates",
    "one_prefix_word_good": "himself",
    "one_prefix_word_bad": "herself",
    "pairID": "1",
}
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["Danielle Darrieux spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Henri Barbusse is"],
    "attribute_prompts": ["J.R.R. Tolkien is a native speaker of"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
MEND = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "IIT"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
}
EASYEDIT = {
    "subject": "Watts Humphrey",
    "prompt": "What university did Watts Humphrey attend?",
    "target_new": "University of Michigan",
    "ground_truth": "Illinois Institute of Technology",
    "rephrase_prompt": "What university did Watts Humphrey take part in?",
    "locality_prompt": "nq question: who played desmond doss father in hacksaw ridge",
    "locality_ground_truth": "Hugo Weaving",
}
KNOWEDIT = {
    "subject": "Leonardo DiCaprio",
    "prompt": "The name of the country of citizenship of Leonardo DiCaprio is",
    "target_new": "Syria",
    "ground_truth": ["United States of America", "USA"],
    "rephrase": ["Leonardo DiCaprio is a citizen of"],
    "portability": {
        "Reasoning": [
            {"prompt": "The capital of Leonardo DiCaprio's country is", "ground_truth": [["Damascus", "Sham"]]}
        ],
        "Subject_Aliasing": [{"prompt": "Leo is a citizen of", "ground_truth": "Syria"}],
        "Logical_Generalization": None,
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The gender of Leonardo DiCaprio is", "ground_truth": ["male"]}],
        "Forgetfulness": [{"prompt": "Leonardo DiCaprio's country, which is not Syria, is", "ground_truth": "USA"}],
    },
}


def put(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def put_lines(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def by_id(task):
    return {case.id: case for case in task.cases}


def completion(criterion, prompt, target, rival, expect="new", aliases=()):
    return Probe(criterion, "completion", prompt, target, rival, expect, aliases)


def keeps_the_rules(task):
    cases = task.cases
    assert cases is task.cases  # read once
    assert len({case.id for case in cases}) == len(cases)
    assert task.criteria == tuple(c for c in CRITERIA if any(p.criterion == c for k in cases for p in k.probes))
    assert all([task.licence, task.citation, task.source, task.title, task.description, task.relation])
    for case in cases:
        assert case.request.target_new.casefold() != case.request.target_true.casefold()
        assert case.request.text == case.request.text.strip()
        for probe in case.probes:
            assert probe.target
            assert probe.rival
            assert probe.rival.casefold() not in {answer.casefold() for answer in (probe.target, *probe.aliases)}
            assert probe.prompt == probe.prompt.strip()
            assert bool(probe.prompt) == (probe.kind == "completion")
    return True


def test_examples_in_the_text_are_right():
    for module in (readers, common):
        assert doctest.testmod(module).failed == 0


# ParaRel


def test_pararel_cases_are_as_worked_by_hand(tmp_path):
    task, report = read_task("pararel", "P36", put(tmp_path / "p.json", SAMPLE))
    assert (report.read, report.skipped, report.first) == (4, 0, None)
    assert task.name == "pararel-p36"
    assert keeps_the_rules(task)
    cases = by_id(task)
    assert cases["p36-0000"].request == EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
    assert cases["p36-0000"].probes == (
        completion("reliability", "The capital of Canada is", "Rome", "Ottawa"),
        completion("paraphrase", "Canada's capital city,", "Rome", "Ottawa"),
        # The fact before the first is the last: the Kingdom of Italy, with which Canada trades capitals.
        completion("symmetry", "Rome is the capital of", "Canada", "Kingdom of Italy"),
        completion("release", "Ottawa is the capital of", "Canada", "Kingdom of Italy", "gone"),
        # No other subject has Ottawa, and the Italies have the new target.
        completion("neighbourhood", "The capital of France is", "Paris", "Rome", "unchanged"),
    )
    assert cases["p36-0001"].request.target_new == "Ottawa"
    assert cases["p36-0002"].request.target_new == "Rome"
    assert cases["p36-0003"].request.target_new == "Paris"
    assert cases["p36-0001"].probes[-1] == completion(
        "neighbourhood", "The capital of Kingdom of Italy is", "Rome", "Ottawa", "unchanged"
    )
    assert [probe.criterion for probe in cases["p36-0001"].probes].count("neighbourhood") == 1


def test_pararel_never_takes_what_is_true_of_the_same_subject(tmp_path):
    bags = capitals(("Bolivia", "Sucre"), ("Peru", "Lima"), ("Bolivia", "lima"), ("Chile", "Santiago"))
    task, _ = read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))
    cases = by_id(task)
    assert cases["p36-0000"].request.target_new == "Santiago"
    assert cases["p36-0001"].request.target_new == "Sucre"
    assert cases["p36-0002"].request.target_new == "Santiago"  # neither Lima nor Sucre, which are Bolivia's own
    assert cases["p36-0003"].request.target_new == "lima"
    assert "Bolivia" not in {p.prompt.split()[3] for p in cases["p36-0003"].probes if p.criterion == "neighbourhood"}
    assert "symmetry" not in task.criteria  # the file has no inverse relation


def test_pararel_finds_subjects_that_share_words_and_leaves_out_broken_bags(tmp_path):
    bags = capitals(
        ("Cook County", "Chicago"), ("Cayuga County", "Auburn"), ("Peru", "Lima"), ("'t Zand", "A"), ("Italy", "Rome")
    )
    bags[2:2] = [
        [["Nonsense [MASK].", "Lima", "P36(capital)"]],
        "no bag",
        [["The capital of Peru is .", "Lima", "P36(capital)"]],
        [*bags[0][:2], [bags[1][2][0], "Chicago", "P36(capital)"]],
        [*bags[0][:2], [bags[0][2][0], "Lima", "P36(capital)"]],
        [["The capital of Peru is [MASK] .", "Lima"]],
    ]
    task, report = read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))
    assert {c.request.subject for c in task.cases} == {"Cook County", "Cayuga County", "Peru", "'t Zand", "Italy"}
    assert (report.read, report.skipped) == (5, 6)
    assert report.reasons == {
        "a prompt does not fit its pattern": 1,
        "not a list of prompts": 1,
        "a prompt has not one [MASK]": 1,
        "its prompts have different subjects": 1,
        "its prompts have different answers": 1,
        "a line is not [prompt, answer, relation]": 1,
    }
    assert report.first == "bag p36-0002: a prompt does not fit its pattern"
    assert "p36-0001" in by_id(task)  # ids are places in the file, whatever was left out
    assert "p36-0008" in by_id(task)


def test_pararel_asks_for_the_occupation(tmp_path):
    facts = [("Ann", "physics"), ("Bob", "chemistry"), ("Cyd", "jazz")]
    bags = [bag(P101, "P101(field of work)", *fact) for fact in facts]
    task, _ = read_task("pararel", "P101", put(tmp_path / "p.json", {"P101": bags}))
    synonyms = {case.id: [p for p in case.probes if p.criterion == "synonym"] for case in task.cases}
    assert synonyms == {
        "p101-0000": [completion("synonym", "Ann is a famous", "chemist", "physicist")],
        "p101-0001": [completion("synonym", "Bob is a famous", "physicist", "chemist")],
        "p101-0002": [],  # nobody is "a famous jazz", and nobody is made to work in its field
    }


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [("P63", "did you mean 'P36'"), ("p36", "did you mean 'P36'"), (None, "has: P1376, P36")],
)
def test_pararel_names_the_relations_it_has(tmp_path, selection, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        read_task("pararel", selection, put(tmp_path / "p.json", SAMPLE))


def test_pararel_says_when_no_pattern_ends_with_the_mask(tmp_path):
    bags = [bag(P36[1:2], "P36", *fact) for fact in (("Peru", "Lima"), ("Italy", "Rome"))]
    with pytest.raises(KnbenchError, match=r"nothing could be read: 2 entries .* no pattern of the relation ends with"):
        read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))


def test_content_does_not_depend_on_the_hash_seed(tmp_path):
    path = put(tmp_path / "p.json", SAMPLE)
    here = read_task("pararel", "P36", path)[0].content_hash()
    code = "import sys; from knbench.tasks.readers import read_task as read\n"
    code += "print(read('pararel', 'P36', sys.argv[1])[0].content_hash())"
    for seed in ("0", "31337"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, path]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


@needs_pararel
@pytest.mark.parametrize(
    ("relation", "bags", "paraphrases"),
    [("P36", 703, 7), ("P1376", 234, 5), ("P101", 400, 9), ("P1303", 400, 1), ("P140", 400, 0)],
)
def test_published_pararel(relation, bags, paraphrases):
    task, report = read_task("pararel", relation, str(PARAREL.parent))
    assert (report.read, report.skipped, len(task.cases)) == (bags, 0, bags)
    assert keeps_the_rules(task)
    raw = json.loads(PARAREL.read_text(encoding="utf-8"))[relation]
    answers = {}
    for case in task.cases:
        answers.setdefault(case.request.subject.casefold(), set()).add(case.request.target_true.casefold())
    for case in task.cases:
        lines = raw[int(case.id.rsplit("-", 1)[1])]
        subject = case.request.subject
        assert all(subject in prompt for prompt, *_ in lines)
        assert case.request.target_true == lines[0][1]
        assert case.request.target_new.casefold() not in answers[subject.casefold()]
        counts = Counter(probe.criterion for probe in case.probes)
        assert counts["paraphrase"] == paraphrases
        assert 1 <= counts["neighbourhood"] <= 4
        asked = {probe.prompt for probe in case.probes if probe.criterion in ("reliability", "paraphrase")}
        published = [prompt for prompt, *_ in lines]
        assert all(any(prompt.startswith(text) for prompt in published) for text in asked)
        for probe in case.probes:
            if probe.criterion == "neighbourhood":
                assert subject.casefold() != probe.prompt.casefold()
                assert probe.rival == case.request.target_new
        assert counts["symmetry"] == counts["release"] == (relation in ("P36", "P1376"))


# BLiMP


def blimp(tmp_path, *rows, uid="anaphor_gender_agreement"):
    put_lines(tmp_path / f"{uid}.jsonl", *rows)
    return read_task("blimp", uid, str(tmp_path))


def test_blimp_case_is_as_worked_by_hand(tmp_path):
    task, report = blimp(tmp_path, PAIR, OTHER)
    assert (report.read, report.skipped) == (2, 0)
    assert task.name == "blimp-anaphor-gender-agreement"
    assert task.kind == "linguistic"
    assert keeps_the_rules(task)
    case = by_id(task)["anaphor-gender-agreement-0000"]
    assert case.request == EditRequest("Katherine can't {}", "help", "himself", "herself")
    assert case.probes == (
        completion("reliability", "Katherine can't help", "himself", "herself"),
        Probe("symmetry", "minimal_pair", "", PAIR["sentence_bad"], PAIR["sentence_good"], "new"),
        completion("neighbourhood", "Mark hates", "himself", "herself", "unchanged"),
    )


def test_blimp_without_published_prefixes_gives_the_same(tmp_path):
    """The hub's copy has the sentences alone, and calls the number ``pair_id``."""
    kept = ("sentence_good", "sentence_bad", "one_prefix_method", "UID")
    bare = [{**{key: row[key] for key in kept}, "pair_id": n} for n, row in enumerate((PAIR, OTHER))]
    (one, _), (other, _) = blimp(tmp_path, PAIR, OTHER), blimp(tmp_path, *bare)
    assert one.content_hash() == other.content_hash()


def test_blimp_comes_from_the_hub_through_datasets(tmp_path, monkeypatch):
    import datasets

    def load(path, **options):
        assert (path, options) == ("nyu-mll/blimp", {"name": "anaphor_gender_agreement"})
        return datasets.DatasetDict(train=datasets.Dataset.from_list([PAIR, OTHER]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    task, _ = read_task("blimp", "anaphor_gender_agreement", None)
    assert task.content_hash() == blimp(tmp_path, PAIR, OTHER)[0].content_hash()


def test_blimp_pairs_without_a_prefix(tmp_path):
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
    task, report = blimp(tmp_path, *rows, uid=uid)
    assert report.reasons == {
        "the sentences differ from the first word on": 1,
        "the new target equals the true one": 1,
        "one sentence ends where the other goes on": 1,
        "the two sentences are the same": 1,
    }
    assert report.first == "line 3: the sentences differ from the first word on"
    assert by_id(task)["determiner-noun-agreement-2-0000"].request == EditRequest(
        "Some dog {}", "stunned", "these committee", "this committee"
    )
    assert by_id(task)["determiner-noun-agreement-2-0000"].probes[-1] == Probe(
        "neighbourhood", "minimal_pair", "", "Mark sees these cats.", "Mark sees this cats.", "unchanged"
    )
    pairs, report = read_pairs(str(tmp_path), uid)
    assert (pairs, report.read, report.skipped) == (rows[:5], 5, 1)


def test_blimp_counts_broken_and_foreign_lines_and_reads_the_rest(tmp_path):
    rows = [{**PAIR, "pairID": str(n)} for n in range(500)]
    rows[16] = b'{"sentence_good": "Katherine can'
    rows[99] = b'{"sentence_good": "\xff"}'
    rows[200] = [1, 2]
    rows[300] = {**PAIR, "UID": "wh_island"}
    rows[400] = {**PAIR, "pairID": "3"}
    rows[450] = {**PAIR, "sentence_bad": "\ud800"}
    rows[460] = {"a": 1}
    task, report = blimp(tmp_path, *rows)
    assert (report.read, len(task.cases), report.skipped) == (493, 493, 7)
    assert set(report.reasons.values()) == {1}
    assert sorted(report.reasons) == [
        "a row of another paradigm",
        "its id stands twice",
        "no field 'sentence_good'",
        "not JSON",
        "not UTF-8",
        "not a JSON object",
        "text that is no valid Unicode",
    ]
    assert report.first == "line 17: not JSON"
    assert len(task.content_hash()) == 64


def test_blimp_names_the_paradigm_meant(tmp_path):
    assert len(UIDS) == len(set(UIDS)) == 67
    with pytest.raises(KnbenchError, match="did you mean 'anaphor_gender_agreement'"):
        read_task("blimp", "anaphor-gender-agreement", str(tmp_path))
    with pytest.raises(KnbenchError, match="needs the name of a paradigm"):
        read_task("blimp", None, str(tmp_path))
    with pytest.raises(KnbenchError, match=r"no file or folder '.*wh_island.jsonl'; give the path"):
        read_task("blimp", "wh_island", str(tmp_path))


@needs_blimp
def test_published_blimp():
    """All eight thousand pairs share leading words: every one can be edited."""
    found = sorted(path.stem for path in BLIMP.glob("*.jsonl"))
    assert len(found) == 8
    for uid in found:
        task, report = read_task("blimp", uid, str(BLIMP))
        assert (report.read, report.skipped, len(task.cases)) == (1000, 0, 1000)
        assert keeps_the_rules(task)
        assert len(read_pairs(str(BLIMP), uid)[0]) == 1000
        for case in task.cases:
            assert case.probes[1].target.startswith(f"{case.request.text} {case.request.target_new}")
            assert case.probes[1].rival.startswith(f"{case.request.text} {case.request.target_true}")
            assert Counter(p.criterion for p in case.probes)["neighbourhood"] == 4


# Editing data sets


def only_case(reader, path, selection=None):
    task, report = read_task(reader, selection, path)
    assert (report.read, report.skipped) == (1, 0)
    assert keeps_the_rules(task)
    return task, task.cases[0]


def test_counterfact_case_is_as_worked_by_hand(tmp_path):
    task, case = only_case("counterfact", put(tmp_path / "c.json", [COUNTERFACT]))
    assert (task.name, case.id) == ("counterfact", "counterfact-00007")
    assert case.request == EditRequest("The mother tongue of {} is", "Danielle Darrieux", "English", "French")
    assert case.probes == (
        completion("reliability", "The mother tongue of Danielle Darrieux is", "English", "French"),
        completion("paraphrase", "Danielle Darrieux spoke the language", "English", "French"),
        completion("neighbourhood", "The mother tongue of Henri Barbusse is", "French", "English", "unchanged"),
    )


def test_list_lines_lines_called_json_and_parquet_are_the_same(tmp_path):
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


def test_zsre_in_both_forms_is_as_worked_by_hand(tmp_path):
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


def test_knowedit_case_is_as_worked_by_hand(tmp_path):
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
        completion("portability", capital, "Damascus", true, "new", ("Sham",)),
        completion("portability", "Leo is a citizen of", "Syria", true),
    )
    assert task.criteria == ("reliability", "paraphrase", "portability", "neighbourhood")
    unnamed = only_case("knowedit", str(tmp_path))
    assert (unnamed[0].name, replace(unnamed[1], id="", source="")) == ("knowedit", replace(case, id="", source=""))


def test_knowedit_finds_its_parts_in_a_folder_laid_out_as_published(tmp_path):
    (tmp_path / "benchmark/ZsRE").mkdir(parents=True)
    put(tmp_path / "benchmark/ZsRE/ZsRE-test-all.json", [EASYEDIT])
    assert read_task("knowedit", "zsre", str(tmp_path))[0].name == "knowedit-zsre"
    with pytest.raises(KnbenchError, match=r"no file or folder '.*test_cf.json'"):
        read_task("knowedit", "wiki_counterfact", str(tmp_path))
    with pytest.raises(KnbenchError, match="did you mean 'zsre'"):
        read_task("knowedit", "zsr", str(tmp_path))
    with pytest.raises(KnbenchError, match="select one of: wiki_counterfact, zsre"):
        read_task("knowedit", None, None)


def test_files_on_the_hub_are_read_as_text(monkeypatch):
    """The library's JSON reader refuses answers that are now a string and now a list."""
    import datasets

    def load(builder, **options):
        assert builder == "text"
        assert options["data_files"] == "hf://datasets/zjunlp/KnowEdit/benchmark/ZsRE/ZsRE-test-all.json"
        return datasets.Dataset.from_list([{"text": json.dumps([EASYEDIT, {**KNOWEDIT, "case_id": 1}])}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_task("knowedit", "zsre", None)[1].read == 2
    assert read_task("zsre", None, None)[1].read == 2


def test_entries_and_probes_that_break_the_rules_are_counted(tmp_path):
    useless = {"Reasoning": [{"prompt": "And then?", "ground_truth": "USA"}, {"prompt": "No answer"}]}
    entries = [
        KNOWEDIT,
        {**KNOWEDIT, "ground_truth": "syria"},
        {**KNOWEDIT, "ground_truth": None},
        {**KNOWEDIT, "subject": "Leonardo Di"},  # a part of a word is not it
        {**KNOWEDIT, "target_new": ["Syria"]},
        {**KNOWEDIT, "prompt": ""},
        {**KNOWEDIT, "ground_truth": "USA", "portability": useless},
        {**KNOWEDIT, "prompt": "{} and {}: Leonardo DiCaprio is"},
        5,
    ]
    task, report = read_task("knowedit", None, put(tmp_path / "k.json", entries))
    assert {case.id for case in task.cases} == {"knowedit-00000", "knowedit-00006"}
    assert "portability" not in {probe.criterion for probe in by_id(task)["knowedit-00006"].probes}
    assert (report.read, report.skipped) == (2, 7)
    assert report.reasons == {
        "the new target equals the true one": 1,
        "no true answer, against which the new one could be weighed": 1,
        "the subject does not occur in the prompt": 1,
        "field 'target_new' is no text": 1,
        "field 'prompt' is no text": 1,
        "probe left out: its target equals its rival": 1,
        "probe left out: it has not one prompt and an answer": 1,
        "the prompt has not exactly one place for the subject": 1,
        "not a JSON object": 1,
    }
    assert report.first == "entry 2: the new target equals the true one"
    assert keeps_the_rules(task)


# Sources that cannot be read


def test_what_cannot_be_read_is_told_in_one_line(tmp_path, monkeypatch):
    import datasets

    def offline(*args, **options):
        raise ConnectionError("Couldn't reach it\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    broken = tmp_path / "broken.json"
    broken.write_text('[{"a": 1},\n {"b": ')
    (tmp_path / "two").mkdir()
    put(tmp_path / "two/a.json", [])
    put(tmp_path / "two/b.json", [])
    asked = [
        (("pararell", None, None), "unknown reader 'pararell'; did you mean 'pararel'"),
        (("pararel", "P36", None), "pararel has no default source; give a file"),
        (("pararel", "P36", str(tmp_path / "no.json")), "no.json'; give the path of a local copy"),
        (("pararel", "P36", put(tmp_path / "list.json", [1])), "not ParaRel: an object is expected"),
        (("pararel", "P36", put(tmp_path / "empty.json", {"P36": []})), "it has no entries"),
        (("pararel", "P36", "owner/name"), "no file or folder 'owner/name'"),
        (("counterfact", "x", None), "unknown selection of counterfact 'x'. Known: none"),
        (("zsre", "x", None), "unknown selection of zsre 'x'. Known: none"),
        (("counterfact", None, "data/no.jsonl"), "no file or folder 'data/no.jsonl'"),
        (("counterfact", None, None), "cannot read data set 'azhx/counterfact': Couldn't reach it; it is no file"),
        (("knowedit", "zsre", "no.json"), "no file or folder 'no.json'"),
        (("zsre", None, str(broken)), "broken.json: not valid JSON: Expecting value: line 2 column 8"),
        (
            ("zsre", None, str(tmp_path / "two")),
            "needs exactly one data file (.jsonl, .json, .parquet, .csv); there: a.j",
        ),
        (("zsre", None, put(tmp_path / "c.json", [COUNTERFACT])), "1 entries left out, most often: no field 'subject'"),
        (
            ("counterfact", None, put_lines(tmp_path / "c.jsonl", b"{", b"x")),
            "2 entries left out, most often: not JSON",
        ),
    ]
    for arguments, complaint in asked:
        with pytest.raises(KnbenchError) as error:
            read_task(*arguments)
        assert complaint in str(error.value)
        assert "\n" not in str(error.value)


def test_reading_local_json_does_not_import_datasets(tmp_path):
    path = put(tmp_path / "p.json", SAMPLE)
    code = (
        "import sys; from knbench.tasks.readers import read_task; read_task('pararel', 'P36', sys.argv[1]); "
        "sys.exit(bool({'torch', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def test_readers_are_those_documented():
    assert list(READERS) == ["pararel", "blimp", "counterfact", "zsre", "knowedit"]


@pytest.mark.parametrize(
    ("relation", "prompt", "exceptions"), [("P36", "The capital of {} is", 0), ("P1376", "{} is the capital of", 2)]
)
def test_pararel_edits_are_those_of_the_paper(relation, prompt, exceptions):
    """Niu et al. give each subject the object of the bag before it; where that is its own, ours goes further back."""
    path = SHARED / "data/pararel/data_all_allbags.json"
    if not path.exists():
        pytest.skip(f"published data not found at {path}")
    bags = json.loads(path.read_text())[relation]
    subject_of = {
        "P36": lambda bag: bag[4][0].split("'s capital")[0],
        "P1376": lambda bag: bag[0][0].split(" is the")[0],
    }
    facts = [(subject_of[relation](bag), bag[0][1]) for bag in bags]
    task, _ = read_task("pararel", relation, str(path))
    requests = {int(case.id.split("-")[1]): case.request for case in task.cases}
    others = 0
    for i, (subject, true) in enumerate(facts):
        paper = EditRequest(prompt, subject, facts[i - 1][1], true) if facts[i - 1][1] != true else None
        others += requests[i] != paper
    assert len(requests) == len(facts)
    assert others == exceptions
