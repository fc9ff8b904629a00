"""Requests without a subject or without a true answer: what is measured, and which editors refuse them."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from knbench.benchmark.analyses.tracing import noise_scale
from knbench.benchmark.commands.analysis_options import AnalysisOptions
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Case, EditRequest, Probe
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Editor
from knbench.benchmark.probing.baseline import fluency_probe
from knbench.benchmark.probing.known import KnowledgeCache, known_cases, ranked_first
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.in_context import InContext

from tests.files import json_lines, load_result, rescore
from tests.files import run_folders as run
from tests.integration.running.test_runner import case, task

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
NO_SUBJECT = EditRequest("Because it was late, people saw", "", "Rome", "Ottawa")
NO_TRUE = EditRequest("The capital of {} is", "Mexico", "Paris", "")


def towns():
    cases = [
        Case("plain", NO_SUBJECT, (Probe("reliability", "completion", NO_SUBJECT.text, "Rome", "Ottawa", "new"),)),
        Case("new", NO_TRUE, (Probe("reliability", "completion", NO_TRUE.text, "Paris", "", "new"),)),
        case("Canada"),
    ]
    return dataclasses.replace(task(), cases=tuple(cases))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("The capital is", "Canada", "Rome", "Ottawa"), "needs exactly one {} for its subject"),
        (("{} and {} are", "Canada", "Rome", "Ottawa"), "needs exactly one {} for its subject"),
        (("The capital of {} is", "", "Rome", "Ottawa"), "needs a subject for the {} of its prompt"),
        (("The capital is", "", "", "Ottawa"), "needs a prompt and a new target"),
        (("", "", "Rome", "Ottawa"), "needs a prompt and a new target"),
        (("The capital is", "", "Rome", "Rome"), "the new target equals the true one"),
    ],
)
def test_malformed_requests(fields, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        EditRequest(*fields)


def test_the_text_and_the_fluency_prompt_of_a_request_without_subject():
    assert NO_SUBJECT.text == fluency_probe(NO_SUBJECT).prompt == NO_SUBJECT.prompt
    assert fluency_probe(NO_TRUE).prompt == "The capital of Mexico"


@pytest.mark.parametrize("change", [{}, {"batch_edits": 3}, {"sequential": 3}])
def test_a_method_without_needs_edits_them(lm, tmp_path, change):
    (folder,) = run(lm, [InContext], [towns()], tmp_path, replace(SETTINGS, **change))
    records = json_lines(folder / "records.jsonl")
    assert [r["failure"] for r in records] == [None] * 3
    assert "rival" not in records[1]["probes"][0]["after"]
    assert load_result(folder / "result.json") == rescore(folder)


class NeedsBoth(InContext):
    name = "needs-both"
    needs_subject = needs_rival = True


class Joint(NeedsBoth):
    name, joint_batch_size = "joint", 3


@pytest.mark.parametrize("cls", [NeedsBoth, Joint])
@pytest.mark.parametrize("change", [{}, {"sequential": 3}])
def test_a_method_that_needs_more_fails_with_a_reason(lm, tmp_path, cls, change):
    (folder,) = run(lm, [cls], [towns()], tmp_path, replace(SETTINGS, **change))
    records = json_lines(folder / "records.jsonl")
    assert [r["failure"] and r["failure"]["message"] for r in records] == [
        f"editor '{cls.name}' needs a subject, and 'Because it was late, people saw' has none",
        f"editor '{cls.name}' needs a true answer, and 'The capital of Mexico is' has none",
        None,
    ]
    assert {r["failure"]["phase"] for r in records[:2]} == {"edit"}


def test_a_case_without_true_answer_is_known_unless_the_new_answer_is_given(lm, own_cache):
    cache = KnowledgeCache(make_prober(lm, batch_size=8, new_tokens=2), lm.weight_hash(), own_cache)
    known, first = known_cases(cache, towns()), ranked_first(cache, towns())
    assert set(known) == {"plain", "new", "Canada"}
    assert set(first) == {"plain", "Canada"}
    assert set(known["new"].values()) == {True}
    alone = dataclasses.replace(towns(), cases=towns().cases[1:2])
    assert known_cases(cache, alone)["new"] == known["new"]
    assert ranked_first(cache, alone) == {}


def test_a_subject_span_without_subject_is_refused(lm):
    with pytest.raises(ValueError, match="the prompt 'People saw' has no subject"):
        lm.subject_span("People saw", "")


def test_flags_are_recorded(lm, tmp_path):
    class Replays(InContext):
        name, replays = "replays", True

    folders = run(lm, [InContext, Replays], [towns()], tmp_path, SETTINGS)
    first, second = (load_result(folder / "result.json")["editor"] for folder in folders)
    assert "replays" not in first
    assert second["replays"] is True
    assert first["kind"] == "context"
    assert Editor.kind == "weights"


def test_analyses_leave_out_cases_that_they_cannot_use(lm, own_cache):
    options = AnalysisOptions("tiny", "towns", (), (), all_cases=True, seed=0, device="cpu", output=None, as_json=False)
    assert {case.id for case in options.select_cases(lm, towns())} == {"plain", "Canada"}
    alone = dataclasses.replace(towns(), cases=towns().cases[1:2])
    with pytest.raises(KnbenchError, match="no case of task 'towns' has a true answer"):
        options.select_cases(lm, alone)
    assert noise_scale(lm, towns(), 3.0) > 0
