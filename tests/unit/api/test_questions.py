"""The questions about an edit, and the plan of an edit in words; without models."""

from __future__ import annotations

import pytest
from knbench.benchmark.api.planning import EditWords, make_plan
from knbench.benchmark.api.questions import plan_edit
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest

CAPITAL = {"prompt": "The capital of {} is", "subject": "Canada", "new": "Rome"}


@pytest.fixture(scope="module")
def tasks():
    return registry.tasks()


def prompts(plan, group):
    return [question.prompt for question in plan.questions if question.group == group]


def test_an_own_fact_of_a_known_relation_takes_the_questions_of_its_task(tasks):
    plan = make_plan(EditWords(**CAPITAL), None, tasks.values)
    assert (plan.task, plan.request.target_true) == ("capital", "Ottawa")
    assert prompts(plan, "edit") == ["The capital of Canada is"]
    assert prompts(plan, "paraphrase")[0] == "The capital city of Canada is"
    assert len(prompts(plan, "paraphrase")) == 3
    assert prompts(plan, "consequence") == ["Rome is the capital of"]  # no continent: it needs the row of Rome
    assert len(prompts(plan, "neighbour")) == 3
    assert all("Canada" not in prompt for prompt in prompts(plan, "neighbour"))
    assert {s.target for s in plan.request.support} == {"Ottawa"}


@pytest.mark.parametrize("prompt", ["the capital city of {} is", "The national capital of {} is"])
def test_a_paraphrase_or_support_prompt_of_a_task_has_its_relation(tasks, prompt):
    assert plan_edit(EditRequest(prompt, "Canada", "Rome", ""), tasks.values()).task == "capital"


def test_an_unknown_subject_takes_the_templates(tasks):
    plan = make_plan(EditWords("The capital of {} is", "Atlantis", "Rome"), None, tasks.values)
    assert (plan.task, plan.request.target_true, plan.request.support) == ("capital", "", ())
    assert prompts(plan, "paraphrase")[0] == "The capital city of Atlantis is"
    assert prompts(plan, "consequence") == ["Rome is the capital of"]
    assert [q.wanted for q in plan.questions if q.group == "consequence"] == ["Atlantis"]
    own = make_plan(EditWords("The capital of {} is", "Atlantis", "Rome", "Poseidonis"), None, tasks.values)
    assert own.request.support[0].prompt == "The national capital of Atlantis is"
    assert own.request.support[0].target == "Poseidonis"


def test_another_relation_has_own_questions_only(tasks):
    words = EditWords("The best friend of {} is", "Ada", "Grace", ask=["{} lives in"])
    plan = make_plan(words, None, tasks.values)
    assert [(q.group, q.prompt) for q in plan.questions] == [
        ("edit", "The best friend of Ada is"),
        ("own", "Ada lives in"),
    ]
    forced = make_plan(words, tasks["capital"], tasks.values)
    assert forced.task == "capital"
    assert "The capital city of Ada is" in prompts(forced, "paraphrase")


def test_the_subject_may_be_written_out(tasks):
    plan = make_plan(EditWords("The capital of Canada is", "Canada", "Rome"), None, tasks.values)
    assert plan.request.prompt == "The capital of {} is"


@pytest.mark.parametrize("name", ["CA", "ca", "Canada", "canada"])
def test_a_case_is_found_by_id_or_subject(tasks, name):
    plan = make_plan(EditWords(case=name), tasks["capital"], tasks.values)
    case = next(case for case in tasks["capital"].cases if case.id == "CA")
    assert plan.case == case
    assert plan.questions[0].wanted == case.request.target_new


def test_a_case_with_another_answer_keeps_its_id(tasks):
    plan = make_plan(EditWords(case="CA", new="Rome"), tasks["capital"], tasks.values)
    assert (plan.case.id, plan.request.target_new, plan.request.target_true) == ("CA", "Rome", "Ottawa")


def test_a_question_is_not_asked_twice(tasks):
    plan = make_plan(EditWords(**CAPITAL, ask=["The capital of {} is", "Canada is in"]), None, tasks.values)
    assert prompts(plan, "own") == ["Canada is in"]


@pytest.mark.parametrize(
    ("words", "task", "message"),
    [
        ({}, None, r"no edit is given; state one, for example --prompt"),
        ({**CAPITAL, "new": None}, None, r"the new answer of 'The capital of \{\} is' is missing; give it with --new"),
        ({**CAPITAL, "new": " "}, None, r"the new answer of 'The capital of Canada is' is empty"),
        ({**CAPITAL, "old": "Rome"}, None, r"the new answer 'Rome' .* equals the old one"),
        ({**CAPITAL, "new": "Ottawa"}, None, r"the new answer 'Ottawa' .* equals the old one"),
        ({**CAPITAL, "prompt": ""}, None, r"--prompt is empty"),
        ({**CAPITAL, "subject": ""}, None, r"has a \{\} and no subject that replaces it; give one with --subject"),
        ({**CAPITAL, "prompt": "The capital is"}, None, r"contains neither \{\} nor the subject 'Canada'"),
        ({**CAPITAL, "prompt": "In Canada, Canada is"}, None, r"contains the subject 'Canada' 2 times"),
        ({**CAPITAL, "prompt": "{} and {} are"}, None, r"has 2 times \{\}"),
        ({**CAPITAL, "ask": [""]}, None, r"a question is empty"),
        ({"prompt": "Snow is", "new": "black", "ask": ["{} is"]}, None, r"has a \{\}, but the edit has no subject"),
        ({"case": "CA"}, None, r"--case 'CA' needs the task"),
        ({"case": "CA", "prompt": "x"}, "capital", r"--case is a complete edit; omit --prompt and --subject"),
        ({}, "capital", r"--task capital needs a case: --case NAME; for example: \w\w \("),
        (
            {"case": "Cannada"},
            "capital",
            r"task 'capital' has no case 'Cannada' among its 187 cases; did you mean 'Can",
        ),
        ({"case": "CA", "new": "Ottawa"}, "capital", r"equals the old one"),
    ],
)
def test_a_wrong_edit_is_refused_in_one_line(tasks, words, task, message):
    with pytest.raises(KnbenchError, match=message) as refused:
        make_plan(EditWords(**words), task and tasks[task], tasks.values)
    assert "\n" not in str(refused.value)
