"""Paraphrases, locality and portability in the forms of several data sets, and the spellings of answers."""

from __future__ import annotations

import pytest

from tests.unit.tasks.readers.samples import COUNTERFACT, EASYEDIT, KNOWEDIT, MEND, assert_well_formed, put, read_task


def read_one(tmp_path, reader, record):
    task, report = read_task(reader, None, put(tmp_path / "a.json", [record]))
    assert (len(task.cases), report.skipped) == (1, 0)
    assert_well_formed(task)
    return task.cases[0], report.reasons


def probes(case, criterion):
    return [(p.prompt, p.target, p.rival, p.aliases) for p in case.probes if p.criterion == criterion]


def test_portability_of_another_question_has_no_rival(tmp_path):
    """The answer to another question is no alternative to the true answer of the edit."""
    portability = {
        "Reasoning": [
            {"prompt": "The currency there is the", "ground_truth": [["Syrian pound", "SYP"]]},
            {"prompt": "The old country was", "ground_truth": "USA"},
        ],
        "Subject_Aliasing": [{"prompt": "Leo is a citizen of", "ground_truth": [["Syria", "SY"]]}],
        "Logical_Generalization": [{"prompt": "Leo, citizen of", "ground_truth": ["Syrian Arab Republic", "SYRIA"]}],
    }
    case, reasons = read_one(tmp_path, "knowedit", {**KNOWEDIT, "portability": portability})
    true = "United States of America"
    assert reasons == {}
    assert probes(case, "portability") == [
        ("The currency there is the", "Syrian pound", "", ("SYP",)),
        ("The old country was", "USA", "", ()),
        ("Leo is a citizen of", "Syria", true, ("SY",)),
        ("Leo, citizen of", "Syrian Arab Republic", true, ("SYRIA",)),
    ]


NEW_QUESTION = {"Recalled Relation": "(a, b, c)", "New Question": "Where is it?", "New Answer": "Ann Arbor"}


@pytest.mark.parametrize(("reader", "record"), [("zsre", MEND), ("counterfact", COUNTERFACT), ("knowedit", EASYEDIT)])
@pytest.mark.parametrize("many", [False, True])
def test_portability_as_new_question_and_new_answer(tmp_path, reader, record, many):
    value = [NEW_QUESTION, {**NEW_QUESTION, "New Question": "Which city?"}] if many else NEW_QUESTION
    case, reasons = read_one(tmp_path, reader, {**record, "portability": value})
    expected = [("Where is it?", "Ann Arbor", "", ()), ("Which city?", "Ann Arbor", "", ())]
    assert probes(case, "portability") == expected[: 1 + many]
    assert reasons == {}


def test_an_original_answer_is_the_rival(tmp_path):
    case, _ = read_one(
        tmp_path, "counterfact", {**COUNTERFACT, "portability": NEW_QUESTION | {"Original Answer": "Yale"}}
    )
    assert probes(case, "portability") == [("Where is it?", "Ann Arbor", "Yale", ())]
    equal = NEW_QUESTION | {"Original Answer": "ann arbor"}
    case, reasons = read_one(tmp_path, "counterfact", {**COUNTERFACT, "portability": equal})
    assert probes(case, "portability") == []
    assert reasons == {"probe skipped: target equals rival": 1}


@pytest.mark.parametrize(
    "value",
    [
        [{"prompt": "Who?", "ground_truth": "Ann"}, {"prompt": "Where?", "ground_truth": ["Graz", "Gratz"]}],
        [{"loc": "Who?", "loc_ans": "Ann"}, {"loc": "Where?", "loc_ans": ["Graz", "Gratz"]}],
        [
            {"question": "Who?", "answer": "Ann"},
            {"question": "Where?", "answer": {"value": "Graz", "aliases": ["Gratz"]}},
        ],
        {"a": [{"prompt": "Who?", "answer": "Ann"}], "b": {"prompt": "Where?", "answers": [["Graz"], ["Gratz"]]}},
        {"neighborhood": {"prompt": ["Who?", "Where?"], "ground_truth": ["Ann", ["Graz", "Gratz"]]}},
        [[{"prompt": "Who?", "ground_truth": "Ann"}], [{"prompt": "Where?", "ground_truth": ["Graz", "Gratz"]}], []],
        {"prompt": ["Who?", "Where?"], "ground_truth": ["Ann", ["Graz", "Gratz"]]},
    ],
)
@pytest.mark.parametrize("field", ["locality", "portability"])
def test_every_form_of_locality_and_portability(tmp_path, field, value):
    record = {key: KNOWEDIT[key] for key in ("subject", "prompt", "target_new", "ground_truth")}
    case, reasons = read_one(tmp_path, "knowedit", {**record, field: value})
    criterion, rival = ("neighbourhood", "Syria") if field == "locality" else ("portability", "")
    assert reasons == {}
    assert probes(case, criterion) == [("Who?", "Ann", rival, ()), ("Where?", "Graz", rival, ("Gratz",))]


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("Who?", 1),
        (["Who?", "Where?"], 2),
        (5, 1),
        ({"Reasoning": "Who?"}, 1),
        ({"Reasoning": [{"prompt": "Who?"}, {"ground_truth": "Ann"}, 7, None]}, 4),
        ({"prompt": ["Who?", "Where?"], "ground_truth": "Ann"}, 1),
        ([{"prompt": "", "ground_truth": "Ann"}], 1),
        ({"Reasoning": None, "Subject_Aliasing": []}, 0),
        ({}, 0),
        ("", 0),
        (None, 0),
    ],
)
def test_entries_that_are_not_read_are_counted(tmp_path, value, count):
    record = {key: KNOWEDIT[key] for key in ("subject", "prompt", "target_new", "ground_truth")}
    case, reasons = read_one(tmp_path, "knowedit", {**record, "portability": value, "locality": value})
    assert len(case.probes) == 1
    name = "not exactly one prompt with an answer"
    expected = {f"probe skipped: {field}: {name}": count for field in ("locality", "portability")}
    assert reasons == (expected if count else {})


def test_flat_fields_hold_one_prompt_or_several(tmp_path):
    several = {"locality_prompt": ["nq question: who", "Where?"], "locality_ground_truth": ["Ann", "Graz"]}
    more = {"portability_prompt": "Which state?", "portability_ground_truth": "Michigan"}
    case, reasons = read_one(tmp_path, "knowedit", {**EASYEDIT, **several, **more})
    assert reasons == {}
    new = "University of Michigan"
    assert probes(case, "neighbourhood") == [("who?", "Ann", new, ()), ("Where?", "Graz", new, ())]
    assert probes(case, "portability") == [("Which state?", "Michigan", "", ())]
    case, reasons = read_one(tmp_path, "zsre", {**MEND, "loc": ["nq question: who", "nq question: where"]})
    assert probes(case, "neighbourhood") == []
    assert reasons == {"probe skipped: loc: not exactly one prompt with an answer": 1}


def test_neighbourhood_and_paraphrase_prompts_may_be_objects(tmp_path):
    record = {
        **COUNTERFACT,
        "neighborhood_prompts": [
            "Henri Barbusse speaks",
            {"prompt": "Goethe speaks", "target": "German"},
            {"prompt": "Hugo speaks"},
            {"text": "Zola speaks"},
            None,
        ],
        "paraphrase_prompts": [{"prompt": "She speaks"}, 5.5, ["She speaks", "They speak"]],
    }
    case, reasons = read_one(tmp_path, "counterfact", record)
    assert probes(case, "neighbourhood") == [
        ("Henri Barbusse speaks", "French", "English", ()),
        ("Goethe speaks", "German", "English", ()),
        ("Hugo speaks", "French", "English", ()),
    ]
    assert probes(case, "paraphrase") == [("She speaks", "English", "French", ()), ("5.5", "English", "French", ())]
    assert reasons == {
        "probe skipped: neighborhood_prompts: not a prompt": 2,
        "probe skipped: paraphrase_prompts: not a prompt": 1,
    }


@pytest.mark.parametrize(
    ("reader", "record"),
    [
        ("counterfact", {**COUNTERFACT, "requested_rewrite": COUNTERFACT["requested_rewrite"] | {
            "target_new": {"str": ["Lyon", "Lyons", "Lyon"]}, "target_true": {"str": ["Nice", "Nizza"]}}}),
        ("counterfact", {**COUNTERFACT, "requested_rewrite": COUNTERFACT["requested_rewrite"] | {
            "target_new": ["Lyon", "Lyons"], "target_true": "Nice"}}),
        ("zsre", {**MEND, "alt": [" Lyon", "Lyons"], "answers": ["Nice"]}),
        ("knowedit", {**EASYEDIT, "target_new": [["Lyon"], "Lyons"], "ground_truth": ["Nice"]}),
    ],
)  # fmt: skip
def test_other_spellings_of_the_new_target_are_aliases(tmp_path, reader, record):
    case, _ = read_one(tmp_path, reader, record)
    assert (case.request.target_new, case.request.target_true) == ("Lyon", "Nice")
    for criterion in ("reliability", "paraphrase"):
        assert {p[1:] for p in probes(case, criterion)} == {("Lyon", "Nice", ("Lyons",))}


def test_a_neighbour_may_not_have_a_spelling_of_the_new_target(tmp_path):
    record = {**EASYEDIT, "target_new": ["Lyon", "Lyons"], "locality_ground_truth": "lyons"}
    case, reasons = read_one(tmp_path, "knowedit", record)
    assert probes(case, "neighbourhood") == []
    assert reasons == {"probe skipped: target equals rival": 1}
    task, report = read_task(
        "knowedit", None, put(tmp_path / "b.json", [EASYEDIT, {**record, "ground_truth": "Lyons"}])
    )
    assert (len(task.cases), report.reasons) == (1, {"the new target equals the true target": 1})


def test_numbers_are_answers(tmp_path):
    rewrite = COUNTERFACT["requested_rewrite"]
    numbers = {**rewrite, "target_new": {"str": 1999}, "target_true": {"str": [2000, "MM"]}}
    case, _ = read_one(tmp_path, "counterfact", {**COUNTERFACT, "requested_rewrite": numbers})
    assert (case.request.target_new, case.request.target_true) == ("1999", "2000")
    assert probes(case, "neighbourhood")[0][1:] == ("2000", "1999", ("MM",))
    case, _ = read_one(tmp_path, "zsre", {**MEND, "alt": 7.50, "answers": [-3]})
    assert (case.request.target_new, case.request.target_true) == ("7.5", "-3")
    case, _ = read_one(
        tmp_path, "knowedit", {**EASYEDIT, "target_new": 0, "subject": 42, "prompt": "The answer to 42 is"}
    )
    assert (case.request.target_new, case.request.prompt) == ("0", "The answer to {} is")


def test_slots_of_other_prompts_are_filled_or_counted(tmp_path):
    record = {**COUNTERFACT, "paraphrase_prompts": ["{} speaks"], "neighborhood_prompts": ["{} speaks", "Hugo speaks"]}
    case, reasons = read_one(
        tmp_path, "counterfact", {**record, "portability": {**NEW_QUESTION, "New Question": "{}?"}}
    )
    assert [p[0] for p in probes(case, "paraphrase")] == ["Danielle Darrieux speaks"]
    assert [p[0] for p in probes(case, "neighbourhood")] == ["Hugo speaks"]
    assert [p[0] for p in probes(case, "portability")] == ["Danielle Darrieux?"]
    assert reasons == {"probe skipped: neighbourhood prompt without a subject": 1}


def test_all_rephrased_prompts_are_read_once(tmp_path):
    names = {"rephrase_prompt": "Who is it?", "rephrase": ["Who was it?", "Who is it?"], "rephrase_prompts": []}
    case, _ = read_one(tmp_path, "knowedit", {**EASYEDIT, **names})
    assert [p[0] for p in probes(case, "paraphrase")] == ["Who is it?", "Who was it?"]


def test_values_that_are_no_answers_are_named(tmp_path):
    rewrite = COUNTERFACT["requested_rewrite"]
    values = [True, {"str": {"a": 1}}, {"str": ""}, {}, None, [], {"str": float("nan")}]
    records = [
        {**COUNTERFACT, "case_id": i, "requested_rewrite": {**rewrite, "target_new": v}} for i, v in enumerate(values)
    ]
    task, report = read_task("counterfact", None, put(tmp_path / "a.json", [COUNTERFACT | {"case_id": 99}, *records]))
    assert len(task.cases) == 1
    assert report.reasons == {
        "field 'target_new' is not a string": 1,
        "field 'target_new.str' is not a string": 2,
        "field 'target_new.str' is empty": 1,
        "field 'target_new.str' is missing": 1,
        "field 'target_new' is missing": 1,
        "field 'target_new' is empty": 1,
    }


@pytest.mark.parametrize(
    ("prompt", "subject", "slot"),
    [
        ("挪威的首都是", "挪威", "{}的首都是"),
        ("日本の首都は", "日本", "{}の首都は"),
        ("서울은 어디에", "서울", "{}은 어디에"),
        ("เมืองหลวงของไทยคือ", "ไทย", "เมืองหลวงของ{}คือ"),
        ("Linuxの作者は", "Linux", "{}の作者は"),
        ("Türkiye'nin başkenti", "Türkiye", "{}'nin başkenti"),
    ],
)
def test_subjects_are_found_in_scripts_without_spaces(tmp_path, prompt, subject, slot):
    case, _ = read_one(tmp_path, "knowedit", {**EASYEDIT, "prompt": prompt, "subject": subject})
    assert case.request.prompt == slot
