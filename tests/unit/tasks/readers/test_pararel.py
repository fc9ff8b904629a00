"""The ParaRel reader: cases worked by hand, malformed bags, and agreement with the published edits."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest

from tests.conftest import SHARED
from tests.unit.tasks.readers.samples import (
    P36,
    P101,
    SAMPLE,
    assert_well_formed,
    bag,
    by_id,
    capitals,
    completion,
    put,
    read_task,
)

PARAREL = SHARED / "data/pararel/data_all_allbags.json"
needs_pararel = pytest.mark.skipif(not PARAREL.is_file(), reason=f"needs ParaRel at {PARAREL}")


def test_cases_equal_those_worked_by_hand(tmp_path):
    task, report = read_task("pararel", "P36", put(tmp_path / "p.json", SAMPLE))
    assert (len(task.cases), report.skipped, report.first) == (4, 0, None)
    assert task.name == "pararel-p36"
    assert_well_formed(task)
    cases = by_id(task)
    assert cases["p36-0000"].request == EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
    assert cases["p36-0000"].probes == (
        completion("reliability", "The capital of Canada is", "Rome", "Ottawa"),
        completion("paraphrase", "Canada's capital city,", "Rome", "Ottawa"),
        # The donor of the first fact is the last one: Canada and the Kingdom of Italy exchange capitals.
        completion("symmetry", "Rome is the capital of", "Canada", "Kingdom of Italy"),
        completion("release", "Ottawa is the capital of", "Canada", "Kingdom of Italy", "gone"),
        # No other subject has Ottawa, and both Italies have the new target.
        completion("neighbourhood", "The capital of France is", "Paris", "Rome", "unchanged"),
    )
    assert cases["p36-0001"].request.target_new == "Ottawa"
    assert cases["p36-0002"].request.target_new == "Rome"
    assert cases["p36-0003"].request.target_new == "Paris"
    assert cases["p36-0001"].probes[-1] == completion(
        "neighbourhood", "The capital of Kingdom of Italy is", "Rome", "Ottawa", "unchanged"
    )
    assert [probe.criterion for probe in cases["p36-0001"].probes].count("neighbourhood") == 1


def test_true_answers_of_the_subject_are_never_new_targets(tmp_path):
    bags = capitals(("Bolivia", "Sucre"), ("Peru", "Lima"), ("Bolivia", "lima"), ("Chile", "Santiago"))
    task, _ = read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))
    cases = by_id(task)
    assert cases["p36-0000"].request.target_new == "Santiago"
    assert cases["p36-0001"].request.target_new == "Sucre"
    assert cases["p36-0002"].request.target_new == "Santiago"  # Lima and Sucre are true answers of Bolivia
    assert cases["p36-0003"].request.target_new == "lima"
    assert "Bolivia" not in {p.prompt.split()[3] for p in cases["p36-0003"].probes if p.criterion == "neighbourhood"}
    assert "symmetry" not in task.criteria  # the file has no inverse relation


def test_subjects_that_share_words_are_inferred_and_malformed_bags_skipped(tmp_path):
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
    assert (len(task.cases), report.skipped) == (5, 6)
    assert report.reasons == {
        "a prompt does not match its pattern": 1,
        "not a list of prompts": 1,
        "a prompt does not contain exactly one [MASK]": 1,
        "the prompts have different subjects": 1,
        "the prompts have different answers": 1,
        "a line is not [prompt, answer, relation]": 1,
    }
    assert report.first == "bag p36-0002: a prompt does not match its pattern"
    assert "p36-0001" in by_id(task)  # ids are positions in the file and count skipped bags
    assert "p36-0008" in by_id(task)


TWICE = ("{} , the country of {} , has the capital [MASK] .", "The capital of {} is [MASK] .")


def test_a_pattern_may_mention_the_subject_twice(tmp_path):
    facts = [("Cabo Verde", "Praia"), ("Peru", "Lima"), ("Wales", "Cardiff"), ("Anna Ann", "B")]
    bags = [bag(TWICE, "P36(capital)", *fact) for fact in facts]
    task, report = read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))
    assert report.reasons == {}
    assert_well_formed(task)
    case = by_id(task)["p36-0000"]
    assert case.request.prompt == "{} , the country of Cabo Verde , has the capital"
    assert case.request.text == "Cabo Verde , the country of Cabo Verde , has the capital"
    assert case.probes[1] == completion("paraphrase", "The capital of Cabo Verde is", "B", "Praia")
    prompts = {p.prompt for p in case.probes if p.criterion == "neighbourhood"}
    assert "Peru , the country of Peru , has the capital" in prompts


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("In {} and all of {} the capital is [MASK].", "In Peru and all of Peru the capital is"),
        ("{}: {}'s capital, [MASK]", "Peru: Peru's capital,"),
        ("{} {} [MASK]", "Peru Peru"),
        ("The capital of {} is [MASK]. ", "The capital of Peru is"),
    ],
)
def test_texts_around_two_mentions(tmp_path, pattern, text):
    facts = [("Wales", "Cardiff"), ("Peru", "Lima"), ("New York, New York", "Albany"), ("Cabo Verde", "Praia")]
    bags = [bag((pattern,), "P36(capital)", *fact) for fact in facts]
    task, report = read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))
    assert report.reasons == {}
    assert by_id(task)["p36-0001"].request.text == text
    assert {case.request.subject for case in task.cases} == {subject for subject, _ in facts}


def test_two_different_names_at_the_two_mentions_are_skipped(tmp_path):
    bags = [bag(TWICE, "P36(capital)", *fact) for fact in (("Wales", "Cardiff"), ("Peru", "Lima"), ("Italy", "Rome"))]
    bags.append([["Oslo , the country of Norway , has the capital [MASK] .", "Oslo", "P36"], *bags[0][1:]])
    bags[-1][1] = ["The capital of Norway is [MASK] .", "Oslo", "P36"]
    task, report = read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))
    assert (len(task.cases), report.reasons) == (3, {"a prompt does not match its pattern": 1})


def test_synonym_probes_ask_for_the_occupation(tmp_path):
    facts = [("Ann", "physics"), ("Bob", "chemistry"), ("Cyd", "jazz")]
    bags = [bag(P101, "P101(field of work)", *fact) for fact in facts]
    task, _ = read_task("pararel", "P101", put(tmp_path / "p.json", {"P101": bags}))
    synonyms = {case.id: [p for p in case.probes if p.criterion == "synonym"] for case in task.cases}
    assert synonyms == {
        "p101-0000": [completion("synonym", "Ann is a famous", "chemist", "physicist")],
        "p101-0001": [completion("synonym", "Bob is a famous", "physicist", "chemist")],
        "p101-0002": [],  # jazz has no occupation, and is no new target of fields that have one
    }


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [
        ("P63", "did you mean 'P36'"),
        ("p36", "did you mean 'P36'"),
        (None, "for example pararel:P1376; relations in .*: P1376, P36"),
    ],
)
def test_an_unknown_or_missing_relation_is_an_error_that_suggests_one(tmp_path, selection, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        read_task("pararel", selection, put(tmp_path / "p.json", SAMPLE))


def test_a_relation_without_a_pattern_that_ends_with_the_mask_is_an_error(tmp_path):
    bags = [bag(P36[1:2], "P36", *fact) for fact in (("Peru", "Lima"), ("Italy", "Rome"))]
    with pytest.raises(KnbenchError, match=r"no record can be read: 2 skipped, .* no pattern of the relation ends"):
        read_task("pararel", "P36", put(tmp_path / "p.json", {"P36": bags}))


@needs_pararel
@pytest.mark.parametrize(
    ("relation", "bags", "paraphrases"),
    [("P36", 703, 7), ("P1376", 234, 5), ("P101", 400, 9), ("P1303", 400, 1), ("P140", 400, 0)],
)
def test_published_data(relation, bags, paraphrases):
    task, report = read_task("pararel", relation, str(PARAREL.parent))
    assert (len(task.cases), report.skipped) == (bags, 0)
    assert_well_formed(task)
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


@needs_pararel
@pytest.mark.parametrize(
    ("relation", "prompt", "exceptions"), [("P36", "The capital of {} is", 0), ("P1376", "{} is the capital of", 2)]
)
def test_edits_agree_with_the_paper(relation, prompt, exceptions):
    """Niu et al. (2024) use the object of the preceding bag. If that is a true answer, the reader goes further back."""
    bags = json.loads(PARAREL.read_text(encoding="utf-8"))[relation]
    subject_of = {
        "P36": lambda bag: bag[4][0].split("'s capital")[0],
        "P1376": lambda bag: bag[0][0].split(" is the")[0],
    }
    facts = [(subject_of[relation](bag), bag[0][1]) for bag in bags]
    task, _ = read_task("pararel", relation, str(PARAREL))
    requests = {int(case.id.split("-")[1]): case.request for case in task.cases}
    differences = 0
    for i, (subject, true) in enumerate(facts):
        paper = EditRequest(prompt, subject, facts[i - 1][1], true) if facts[i - 1][1] != true else None
        differences += requests[i] != paper
    assert len(requests) == len(facts)
    assert differences == exceptions
