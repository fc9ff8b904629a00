"""Knowledge of a model before edits, against scoring every answer in full."""

from __future__ import annotations

import json

import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Task
from knbench.benchmark.probing.base import Prober
from knbench.benchmark.probing.known import KnowledgeCache, knowledge, known_cases, ranked_first, right_pairs
from knbench.benchmark.probing.prober import make_prober
from knbench.leaderboard.build import build_site

from tests.conftest import called, make_lm
from tests.references.slow_probing import slow_answer

# Two of the answers, "Rome" and "capital", have one token each, and their probabilities differ by small margins.
CITIES = {"Canada": "Ottawa", "Italy": "Rome", "France": "capital", "Mexico": "Mexico City", "Susan": "people"}


def towns():
    cities = list(CITIES.values())

    def case(i, name, true):
        new = next(c for c in cities[i + 1 :] + cities if c != true)
        request = EditRequest("The capital of {} is", name, new, true)
        return Case(name, request, (Probe("reliability", "completion", request.text, new, true, "new"),))

    cases = tuple(case(i, *pair) for i, pair in enumerate(CITIES.items()))
    text = dict.fromkeys(("title", "description", "licence", "citation", "source", "relation"), "x")
    return Task(name="towns", version=1, kind="fact", criteria=("reliability",), cases=cases, **text)


@pytest.mark.parametrize("scale", [1.0, 0.02])  # 0.02: small margins, which wrong pruning would change
@pytest.mark.parametrize("seed", range(4))
def test_knowledge_equals_scoring_every_answer_in_full(own_cache, seed, scale):
    lm, task = make_lm("llama", seed=seed), towns()
    lm.model.model.norm.weight.data *= scale
    cache = KnowledgeCache.of(make_prober(lm, batch_size=2))
    known, first = known_cases(cache, task), ranked_first(cache, task)
    for case in task.cases:
        text, true = case.request.text, case.request.target_true
        scores = {city: slow_answer(lm, text, city) for city in set(CITIES.values())}
        best = max(scores, key=lambda city: scores[city]["logprob"])
        assert first[case.id] == (best == true)
        assert known[case.id]["success"] == (scores[true]["logprob"] > scores[case.request.target_new]["logprob"])
        assert known[case.id]["exact"] == (set(scores[true]["ranks"]) == {0})


def test_knowledge_is_measured_once_per_model_and_task(own_cache, monkeypatch):
    lm, task = make_lm("llama"), towns()
    first = knowledge(KnowledgeCache.of(make_prober(lm)), task)
    assert len(list((own_cache / "known").glob("*.json"))) == 2
    monkeypatch.setattr(Prober, "observe", lambda *_, **__: pytest.fail("measured again"))
    assert knowledge(KnowledgeCache.of(make_prober(lm)), task) == first
    monkeypatch.undo()
    monkeypatch.setenv("KNBENCH_CACHE", str(own_cache))
    knowledge(KnowledgeCache.of(make_prober(make_lm("llama", seed=9))), task)
    assert len(list((own_cache / "known").glob("*.json"))) == 4


def slow_logprob(lm, prompt, answer):
    """Return the log-probability of an answer with one forward pass per token."""
    total = 0.0
    for ids, position, token in lm.token_queries(prompt, answer, "."):
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids[: position + 1] if lm.causal else ids])).logits
        total += logits[0, position].log_softmax(-1)[token].item()
    return total


def task_of(prompt, *facts):
    """Return a task of facts: subject, new target, true answer."""
    cases = tuple(
        Case(name, request, (Probe("reliability", "completion", request.text, new, true, "new"),))
        for name, new, true in facts
        for request in [EditRequest(prompt, name, new, true)]
    )
    text = dict.fromkeys(("title", "description", "licence", "citation", "source", "relation"), "x")
    return Task(name="facts", version=1, kind="fact", criteria=("reliability",), cases=cases, **text)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_answers_of_which_one_begins_the_other_are_not_compared(own_cache, kind):
    """The longer one is never the more probable one, whatever the model knows."""
    lm = make_lm(kind)
    task = task_of(
        "The capital of {} is",
        ("Italy", "Rome City", "Rome"),
        ("France", "Rome", "Rome City"),
        ("Peru", "Rome", "Paris"),
    )
    cache = KnowledgeCache.of(make_prober(lm))
    known, first = known_cases(cache, task), ranked_first(cache, task)
    assert [known[case.id]["success"] for case in task.cases][:2] == [None, None]
    for case in task.cases:
        prompt, true = case.request.text, case.request.target_true
        others = {"Rome", "Rome City", "Paris"} - {true} - ({"Rome", "Rome City"} if "Rome" in true else set())
        slow = {answer: slow_logprob(lm, prompt, answer) for answer in {true, *others}}
        assert first[case.id] == all(slow[true] > slow[other] for other in others)
    row = knowledge(cache, task)
    assert (row["cases"], row["success"]) == (3, float(known["Peru"]["success"]))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_an_answer_without_a_token_of_its_own_is_not_compared(own_cache, kind, monkeypatch):
    """Some tokenizers merge the end of a prompt with the start of another case's answer."""
    lm = make_lm(kind)
    task = task_of("{}:", ("Italy", "Paris", "Rome"), ("France", "Rome", "Ottawa"))
    method = "split" if lm.causal else "locate_target"
    original = getattr(lm, method)

    def merging(prompt, target, *rest):
        if (prompt, target) == ("Italy:", "Ottawa"):
            raise ValueError("one token contains both")
        return original(prompt, target, *rest)

    monkeypatch.setattr(lm, method, merging)
    first = ranked_first(KnowledgeCache.of(make_prober(lm)), task)
    slow = {answer: slow_logprob(lm, "France:", answer) for answer in ("Rome", "Ottawa")}
    assert first == {"Italy": True, "France": slow["Ottawa"] > slow["Rome"]}


def with_config(lm):
    lm.model.config.hidden_act = "relu"
    return lm


@pytest.mark.parametrize(
    ("other", "batch_size"),
    [
        (lambda: make_lm("llama", bos=True), 32),
        (lambda: with_config(make_lm("llama")), 32),
        (lambda: make_lm("llama", dtype=torch.bfloat16), 32),
        (lambda: make_lm("llama"), 2),
    ],
    ids=["tokenizer", "config", "dtype", "batch_size"],
)
def test_a_model_that_may_answer_otherwise_is_measured_itself(own_cache, monkeypatch, tmp_path, other, batch_size):
    task = towns()
    known_cases(KnowledgeCache.of(make_prober(make_lm("llama"), batch_size=32)), task)
    after_another = known_cases(KnowledgeCache.of(make_prober(other(), batch_size=batch_size)), task)
    assert len(list((own_cache / "known").glob("*.json"))) == 2
    monkeypatch.setenv("KNBENCH_CACHE", str(tmp_path))
    assert after_another == known_cases(KnowledgeCache.of(make_prober(other(), batch_size=batch_size)), task)


def test_numbers_of_another_tokenizer_are_not_read(own_cache):
    task = registry.task("capital")
    rows = {}
    for bos in (False, True):
        rows[bos] = known_cases(KnowledgeCache.of(make_prober(make_lm("llama", bos=bos))), task)
    assert rows[False] != rows[True]


def test_sentences_are_scored_in_full(own_cache):
    lm, task = make_lm("llama"), registry.task("anaphor-gender")
    right = right_pairs(KnowledgeCache.of(make_prober(lm)), task)
    for pair in task.pairs[:10]:
        good, bad = (slow_answer(lm, "", pair[f"sentence_{kind}"])["logprob"] for kind in ("good", "bad"))
        assert right[pair["pairID"]] == (good > bad)


@pytest.mark.slow
@pytest.mark.long
def test_command_writes_an_analysis_that_the_models_page_shows(own_cache, model_folder, tmp_path, capsys):
    folder = tmp_path / "known"
    arguments = ["known", "--model", model_folder, "--tasks", "capital,anaphor-gender", "--output", folder]
    status, out, _ = called(capsys, *arguments, "--json")
    assert status == 0
    facts, phenomena = json.loads(out)
    cache = KnowledgeCache.of(make_prober(make_lm("llama"), batch_size=64))
    right = right_pairs(cache, registry.task("anaphor-gender"))
    assert phenomena["sentences"] == round(sum(right.values()) / len(right), 4)
    assert (facts["cases"], facts["sentences"], phenomena["ranked_first"]) == (187, None, None)
    assert called(capsys, *arguments, "--json")[1] == out
    assert called(capsys, *arguments[:-4], "--tasks", "capital", "--output", folder)[0] == 2  # another analysis

    assert called(capsys, "run", "--model", model_folder, "--editors", "none", "--tasks", "capital", "--limit", "2",
                  "--output", tmp_path / "runs")[0] == 0  # fmt: skip
    site = build_site([tmp_path / "runs", folder], tmp_path / "site").parent
    (page,) = (site / "models").glob("*.html")
    text = page.read_text()
    known = text.index("Knowledge before any edit")
    row = text[text.index("Anaphor gender agreement", known) :].split("</tr>")[0]
    assert f"<b>{100 * phenomena['sentences']:.1f}</b>" in row
    assert "href" not in row  # a task without results has no page
    assert "tasks/capital-v2.html" in text[known:]
