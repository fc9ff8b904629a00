"""Readers of data sets without true answers, with several edits, with conditions and with long answers.

The records are made up, in the published form. Real files are read where they are available.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Condition, EditRequest

from tests.unit.tasks.readers.samples import (
    COUNTERFACT,
    assert_well_formed,
    by_id,
    completion,
    put,
    read_task,
)

PUBLISHED = Path(__file__).parents[5] / "shared" / "data" / "published"

CITIZEN = {
    "prompt": "{} is a citizen of",
    "subject": "Ann Lee",
    "target_new": {"str": "Norway"},
    "target_true": {"str": "Peru"},
    "question": "Of which country is Ann Lee a citizen?",
}
CAPITAL = {**CITIZEN, "prompt": "The capital of {} is", "subject": "Norway", "target_new": {"str": "Bern"},
           "target_true": {"str": "Oslo"}, "question": "What is the capital of Norway?"}  # fmt: skip
MQUAKE = {
    "case_id": 3,
    "requested_rewrite": [CITIZEN, CAPITAL],
    "questions": ["What is the capital of Ann Lee's country?", "Where does Ann Lee's government sit?"],
    "answer": "Lima",
    "answer_alias": [],
    "new_answer": "Bern",
    "new_answer_alias": ["Berne"],
    "new_single_hops": [
        {"question": CITIZEN["question"], "cloze": "Ann Lee is a citizen of", "answer": "Norway", "answer_alias": []},
        {"question": CAPITAL["question"], "cloze": "The capital of Norway is", "answer": "Bern", "answer_alias": []},
        {"question": "Where is Bern?", "cloze": "Bern lies in", "answer": "Switzerland", "answer_alias": ["CH"]},
    ],
}
FLAT = [
    {**{k: v for k, v in edit.items() if "target" not in k}, "target_new_str": edit["target_new"]["str"],
     "target_true_str": edit["target_true"]["str"]}
    for edit in (CITIZEN, CAPITAL)
]  # fmt: skip


def query(prompt, *answers, aliases=()):
    return {"prompt": prompt, "answers": [{"value": a, "aliases": list(aliases)} for a in answers]}


def ripple_test(queries, conditions=()):
    return {"test_queries": queries, "test_condition": "OR", "condition_queries": list(conditions)}


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann Lee is Norway.",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "original_fact": {"prompt": "The name of the country of citizenship of Ann Lee is Peru."},
    },
    "Logical_Generalization": [],
    "Compositionality_I": [
        ripple_test(
            [query("The capital of the country of Ann Lee is", "Oslo")], [query("The capital of Norway is", "Oslo")]
        )
    ],
    "Subject_Aliasing": [
        # The condition repeats the test and asks for the new answer before the edit.
        ripple_test(*[[query("The name of the country of citizenship of A. Lee is", "Norway", aliases=["NO"])]] * 2)
    ],
    "Relation_Specificity": [
        ripple_test(*[[query("The gender of Ann Lee is", "female")]] * 2),
        ripple_test([query("The gender of  is", "female")]),
        ripple_test([query("The name of the spouse of Ann Lee is")]),
    ],
    "Forgetfulness": [ripple_test([query("The country of Ann Lee, which is not Norway, is", "Peru")])],
}


def only_case(tmp_path, reader, records, selection=None):
    task, report = read_task(reader, selection, put(tmp_path / "a.json", records))
    assert_well_formed(task)
    assert (len(task.cases), report.skipped) == (1, 0)
    return task.cases[0], report.reasons


@pytest.mark.parametrize("rewrites", [[CITIZEN, CAPITAL], FLAT])
def test_the_edits_of_a_chain_are_one_case(tmp_path, rewrites):
    case, reasons = only_case(tmp_path, "mquake", [{**MQUAKE, "requested_rewrite": rewrites}])
    assert reasons == {}
    assert case.requests == (
        EditRequest("{} is a citizen of", "Ann Lee", "Norway", "Peru"),
        EditRequest("The capital of {} is", "Norway", "Bern", "Oslo"),
    )
    assert case.probes == (
        completion("reliability", "Ann Lee is a citizen of", "Norway", "Peru"),
        completion("reliability", "The capital of Norway is", "Bern", "Oslo"),
        completion("paraphrase", "Of which country is Ann Lee a citizen?", "Norway", "Peru"),
        completion("paraphrase", "What is the capital of Norway?", "Bern", "Oslo"),
        completion("portability", MQUAKE["questions"][0], "Bern", "Lima", "new", ("Berne",)),
        completion("portability", MQUAKE["questions"][1], "Bern", "Lima", "new", ("Berne",)),
        completion("neighbourhood", "Bern lies in", "Switzerland", "", "unchanged", ("CH",)),
    )


def test_conditions_belong_to_the_tests_of_rippleedits(tmp_path):
    case, reasons = only_case(tmp_path, "rippleedits", [RIPPLE])
    prompt = "The name of the country of citizenship of"
    assert case.request == EditRequest(f"{prompt} {{}} is", "Ann Lee", "Norway", "Peru")
    assert case.probes == (
        completion("reliability", f"{prompt} Ann Lee is", "Norway", "Peru", "new", ("NO",)),
        completion("portability", "The capital of the country of Ann Lee is", "Oslo", ""),
        completion("synonym", f"{prompt} A. Lee is", "Norway", "Peru", "new", ("NO",)),
        completion("unrelated", "The gender of Ann Lee is", "female", "", "unchanged"),
        completion("unrelated", "The country of Ann Lee, which is not Norway, is", "Peru", "", "unchanged"),
    )
    assert case.conditions == (
        Condition("The capital of Norway is", ("Oslo",), (1,)),
        Condition("The gender of Ann Lee is", ("female",), (3,)),
    )
    assert reasons == {"probe skipped: Relation_Specificity: no prompt with a named subject and an answer": 2}


@pytest.mark.parametrize(
    ("relation", "prompt", "subject", "target"),
    [
        ("FOLLOWS", "{} follows", "A is B", "C"),
        ("AWARD_RECEIVED", "The name of the award {} won is", "University of Oslo", "Nobel Prize"),
        ("COUNTRY", "The name of the country which {} is associated with is", "Prize of Peace", "Norway"),
        ("CURRENCY", "The name of the currency in {} is", "Norway", "krone"),
        ("SIBLING", "The names of the siblings of {} are", "Ann of York", "Bo"),
        ("SEX_OR_GENDER", "The gender of {} is", "Ann", "female"),
        ("PLACE_OF_BIRTH", "The place of birth of {} is", "Ann", "St. Louis"),
    ],
)
def test_the_subject_is_read_from_the_wording_of_a_relation(tmp_path, relation, prompt, subject, target):
    edit = {"relation": relation, "prompt": f"{prompt.replace('{}', subject)} {target}."}
    case, _ = only_case(tmp_path, "rippleedits", [{"example_type": "recent", "edit": edit}])
    assert case.request == EditRequest(prompt, subject, target, "")


def test_edits_without_names_are_counted(tmp_path):
    edits = [("GENDER", "The gender of  is female."), ("X", "Nobody knows."), ("X", "The x of Ann is .")]
    records = [{"example_type": "recent", "edit": {"relation": r, "prompt": p}} for r, p in edits]
    with pytest.raises(KnbenchError, match="no record can be read: 3 skipped"):
        read_task("rippleedits", None, put(tmp_path / "a.json", records))


REVERSE = {"prompt": "Norway is the country of", "target_new": {"str": "Ann"}, "target_true": {"str": "Bo"}}
SIMPLE = [
    (
        "qaedit",
        {"prompt": "who runs norway?", "target": "Ann", "subject": "norway", "rephrase": "Who rules Norway?",
         "locality": [{"loc": "where is lima", "loc_ans": "Peru"}]},
        ("who runs {}?", "norway", "Ann", ""),
        [("paraphrase", "Who rules Norway?", "Ann", ""), ("neighbourhood", "where is lima", "Peru", "Ann")],
    ),
    (
        "wikibigedit",
        {"tag": "new", "subject": "Oslo", "update": "Who is mayor of Oslo?", "rephrase": "Who leads Oslo?", "ans": "Bo",
         "loc": "Who is mayor of Lima?", "loc_ans": "Cy", "mhop": "Who is married to Oslo's mayor?", "mhop_ans": "Di",
         "personas": "Arr, who be mayor of Oslo?"},
        ("Who is mayor of {}?", "Oslo", "Bo", ""),
        [("paraphrase", "Who leads Oslo?", "Bo", ""), ("paraphrase", "Arr, who be mayor of Oslo?", "Bo", ""),
         ("neighbourhood", "Who is mayor of Lima?", "Cy", "Bo"),
         ("portability", "Who is married to Oslo's mayor?", "Di", "")],
    ),
    (
        "halluedit",
        {"subject": "Oslo", "relation": "river", "object": "Aker", "question": "What is the river of Oslo?",
         "output_m": "Rhine", "paraphrased_question": "Which river is in Oslo?", "yes_question": "Is it Aker?",
         "no_question": "Is it Rhine?", "locality_question": "Where is Lima?", "multiple_choice_labels": "B",
         "multiple_choice_with_letters": "A. Rhine B. Aker", "reversed_relation_question": "Where is Aker?",
         "question_2hop": "How long is the river of Oslo?", "answer_2hop": "10 km"},
        ("What is the river of {}?", "Oslo", "Aker", ""),
        [("paraphrase", "Which river is in Oslo?", "Aker", ""), ("paraphrase", "Is it Aker?", "Yes", "No"),
         ("paraphrase", "Is it Rhine?", "No", "Yes"),
         ("paraphrase", "What is the river of Oslo? A. Rhine B. Aker Answer:", "B", ""),
         ("portability", "How long is the river of Oslo?", "10 km", ""), ("symmetry", "Where is Aker?", "Oslo", "")],
    ),
    (
        "unke",
        {"id": 0, "question": "What does Ann do?", "para_question": "What is Ann's job?",
         "answer": "Ann paints. A lot.",
         "sub_question": ["How much?"], "sub_answer": ["A lot."]},
        ("What does Ann do?", "", "Ann paints. A lot.", ""),
        [("paraphrase", "What is Ann's job?", "Ann paints. A lot.", ""), ("portability", "How much?", "A lot.", "")],
    ),
    (
        "akew",
        {"case_id": 1, "requested_rewrite": [{**CITIZEN, "fact_new_uns": "Ann Lee is Norwegian.",
         "unsfact_triplets_GPT": [{"subject": "s"}]}], "questions": ["Whose king?"], "new_answer": "Harald"},
        ("Of which country is {} a citizen?", "Ann Lee", "Ann Lee is Norwegian.", ""),
        [("portability", "Ann Lee is a citizen of", "Norway", "Peru"), ("portability", "Whose king?", "Harald", "")],
    ),
    (
        "evoke",
        {**COUNTERFACT, "prefix_distraction": ["Danielle Darrieux speaks English. Henri Barbusse speaks"],
         "relation_specificity": {"prompt": "Danielle Darrieux was born in", "answer": {"value": "Bordeaux"}}},
        ("The mother tongue of {} is", "Danielle Darrieux", "English", "French"),
        [("paraphrase", "Danielle Darrieux spoke the language", "English", "French"),
         ("neighbourhood", "The mother tongue of Henri Barbusse is", "French", "English"),
         ("unrelated", "Danielle Darrieux was born in", "Bordeaux", ""),
         ("distractor", "Danielle Darrieux speaks English. Henri Barbusse speaks", "French", "English")],
    ),
    (
        "bake",
        {**COUNTERFACT, "reverse_qa": REVERSE, "reverse_judge": {**REVERSE, "prompt": "Whether it is so?"}},
        ("The mother tongue of {} is", "Danielle Darrieux", "English", "French"),
        [("paraphrase", "Danielle Darrieux spoke the language", "English", "French"),
         ("neighbourhood", "The mother tongue of Henri Barbusse is", "French", "English"),
         ("symmetry", "Norway is the country of", "Ann", "Bo"), ("symmetry", "Whether it is so?", "Ann", "Bo")],
    ),
    (
        "fever",
        {"prompt": "Oslo is big.", "equiv_prompt": ["Oslo is large."], "ans": "SUPPORTS", "alt": "REFUTES",
         "unrel_prompt": "Lima is wet.", "unrel_ans": "SUPPORTS"},
        ("Oslo is big.", "", "REFUTES", "SUPPORTS"),
        [("paraphrase", "Oslo is large.", "REFUTES", "SUPPORTS"),
         ("neighbourhood", "Lima is wet.", "SUPPORTS", "REFUTES")],
    ),
    (
        "knowedit",
        {"text": "This is about ann lee. She was born.", "labels": "She paints.", "concept": "ann lee",
         "locality": {"Relation_Specificity": [{"prompt": "ann lee gender", "ground_truth": ["female"]}]}},
        ("This is about {}. She was born.", "ann lee", "She paints.", ""),
        [("neighbourhood", "ann lee gender", "female", "")],
    ),
    (
        "counterfact",
        {"case_index": 0, "question": "The tongue of Ann is", "subject": "Ann", "answer": "Thai",
         "qna_question": "What does Ann speak?"},
        ("The tongue of {} is", "Ann", "Thai", ""),
        [("paraphrase", "What does Ann speak?", "Thai", "")],
    ),
    (
        "zsre",
        {"subject": "Oslo", "src": "When was Oslo built?", "rephrase": "Oslo's year?", "loc": "nq question: who",
         "loc_ans": "Bo", "counter_answer": "1972", "golden_answer": "1964"},
        ("When was {} built?", "Oslo", "1972", "1964"),
        [("paraphrase", "Oslo's year?", "1972", "1964"), ("neighbourhood", "who?", "Bo", "1972")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "record", "request_fields", "probes"), SIMPLE, ids=[s[0] for s in SIMPLE])
def test_a_record_gives_the_probes_worked_by_hand(tmp_path, reader, record, request_fields, probes):
    case, _ = only_case(tmp_path, reader, [record])
    assert case.request == EditRequest(*request_fields)
    found = [(p.criterion, p.prompt, p.target, p.rival) for p in case.probes]
    assert found == [("reliability", case.request.text, case.request.target_new, case.request.target_true), *probes]
    kept = {"neighbourhood", "unrelated", "distractor"}
    assert all((p.expect == "unchanged") == (p.criterion in kept) for p in case.probes)


def test_the_parts_of_knowedit_that_are_no_facts(tmp_path):
    (case,) = read_task("knowedit", "convsent", put(tmp_path / "c.json", [
        {"ent": "tea", "pos": ["I love it.", "Great."], "neg": ["I hate it."]}
    ]))[0].cases  # fmt: skip
    assert (case.request.prompt, case.request.subject) == ("What do you think of {}?", "tea")
    assert {case.request.target_new, case.request.target_true} == {"I love it.", "I hate it."}
    fact = {"question": "Who is Ann?", "target_new": "I do not know.", "ground_truth": "A painter"}
    retained = [{"question": "Where is Lima?", "ground_truth": "Peru"}]
    source = put(tmp_path / "s.json", {"K_F": [fact, {**fact, "question": "Who is Bo?"}], "K_R": retained})
    task, _ = read_task("knowedit", "sanitation", source)
    assert [p.prompt for p in by_id(task)["knowedit-sanitation-00001"].probes] == ["Who is Bo?", "Where is Lima?"]
    with pytest.raises(KnbenchError, match="not Sanitation data: expected a JSON object with the lists 'K_F'"):
        read_task("knowedit", "sanitation", put(tmp_path / "x.json", [fact]))
    with pytest.raises(KnbenchError, match="unknown selection of akew 'triplets'"):
        read_task("akew", "triplets", source)


REFUSED = {
    "halluedit_triplet_art_sculpture.csv": "it has no questions",
    "encore_zsre_text_completion_prompts.json": "it has no answers; it accompanies zsRE",
    "leme_annotations_dataset.csv": "it has judgements of generated texts, not edits",
}
READERS = {
    "QAEdit": "qaedit", "akew": "akew", "anyedit": "unke", "counterfact": "counterfact", "easyedit": "counterfact",
    "editevery": "unke", "encore_counterfact": "counterfact", "encore_zsre": "zsre", "evoke": "evoke",
    "halluedit": "halluedit", "jblimp": "jblimp", "knowedit": "knowedit", "leme": "zsre",
    "locft_counterfact": "counterfact", "locft_wikibigedit": "wikibigedit", "locft_zsre": "zsre", "mquake": "mquake",
    "multiblimp": "multiblimp", "ripple": "rippleedits", "rledit": "fever", "rublimp": "rublimp", "samcq": "zsre",
    "sling": "sling", "unke": "unke", "zhoblimp": "zhoblimp", "zsre": "zsre", "clams": "clams", "blimp": "blimp",
}  # fmt: skip


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not available")
def test_every_published_file_is_read_or_refused_with_a_reason():
    for path in sorted(PUBLISHED.glob("*.*")):
        if path.suffix == ".md":
            continue
        reader = READERS[max((prefix for prefix in READERS if path.name.startswith(prefix)), key=len)]
        selection = path.stem.removeprefix("blimp_") if reader == "blimp" else None
        if path.name in REFUSED:
            with pytest.raises(KnbenchError, match=REFUSED[path.name]):
                read_task(reader, selection, str(path))
            continue
        task, report = read_task(reader, selection, str(path))
        assert_well_formed(task)
        unread = report.skipped if not task.pairs else 0
        assert unread <= 0.34 * (unread + len(task.cases)), (path.name, report.reasons)
