"""One edit tried on a model: answers against the model's own numbers, the edit against a run, and saving."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from knbench.benchmark import edit
from knbench.benchmark.api.planning import EditWords, make_plan
from knbench.benchmark.api.questions import own_questions
from knbench.benchmark.api.saving import CARD, DETAILS, save_edited
from knbench.benchmark.api.text import WIDTH, comparison_lines, to_text
from knbench.benchmark.api.trial import Trial
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, Editor, NoConfig, editor_class
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.running.runner import run

PLAIN = """
import json, sys, torch, transformers
folder, prompt = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
ids = transformers.AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt").input_ids
with torch.inference_mode():
    print(json.dumps(model(ids).logits[0, -1].log_softmax(-1).tolist()))
assert not [name for name in sys.modules if name.startswith("knbench")]
"""


@pytest.fixture(scope="module")
def capital():
    return registry.task("capital")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def compared(request, capital):
    """A comparison of two editors on a tiny model, and the fingerprint of the model before it."""
    lm = untrained(request.param)
    before = lm.fingerprint()
    words = EditWords("The capital of {} is", "Canada", "Rome", ask=["{} is in"])
    trial = Trial(lm, make_plan(words, None, lambda: [capital]), tokens=5)
    for name in ("ft", "in-context"):
        trial.attempt(editor_class(name))
    return lm, before, trial, trial.compare()


def distribution(lm, prompt):
    """Return the log-probabilities of the next token, from a plain forward pass."""
    ids = torch.tensor([lm.encode(prompt).ids])
    with torch.inference_mode():
        return lm.model(ids).logits[0, -1].double().log_softmax(-1)


def test_answers_are_those_of_a_plain_forward_pass(compared):
    lm, _, _, comparison = compared
    ft, context = comparison.methods
    for exchange in comparison.exchanges:
        prompt = exchange.question.prompt
        before = distribution(lm, prompt)
        with ft.edit.applied(lm):
            after = distribution(lm, prompt)
            greedy = list(lm.encode(prompt).ids)
            for _ in range(5):
                with torch.inference_mode():
                    greedy.append(int(lm.model(torch.tensor([greedy])).logits[0, -1].argmax()))
        prefixed = distribution(lm, context.edit.prefix + prompt)
        answers = ((exchange.before, before), (exchange.after["ft"], after), (exchange.after["in-context"], prefixed))
        for answer, logprobs in answers:
            best = logprobs.topk(5)
            assert [t.probability for t in answer.top] == pytest.approx(best.values.exp().tolist(), rel=1e-4)
            assert [t.text for t in answer.top] == [
                lm.decode([i]) or lm.tokenizer.convert_ids_to_tokens(i) for i in best.indices.tolist()
            ]
            if answer.kl is not None:
                kl = float((before.exp() * (before - logprobs)).sum())
                assert answer.kl == pytest.approx(kl, rel=1e-3, abs=1e-5)
        new = greedy[len(lm.encode(prompt).ids) :]
        end = lm.tokenizer.eos_token_id
        new = new[: new.index(end)] if end in new else new
        assert exchange.after["ft"].continuation.startswith(lm.decode(new))


def test_the_probability_of_the_wanted_answer_is_that_of_all_its_tokens(compared):
    lm, _, _, comparison = compared
    exchange = comparison.exchanges[0]
    context, ids = lm.split("The capital of Canada is", "Rome")
    logprob = 0.0
    for n, token in enumerate(ids):
        with torch.inference_mode():
            row = torch.tensor([context + ids[:n]])
            logprob += float(lm.model(row).logits[0, -1].double().log_softmax(-1)[token])
    assert exchange.before.wanted == pytest.approx(float(torch.tensor(logprob).exp()), rel=1e-4)
    assert (exchange.before.old is None, exchange.after["ft"].old is None) == (False, False)


def test_a_trial_leaves_the_model_unedited(compared):
    lm, before, _, _ = compared
    assert (lm.fingerprint(), lm.prompt_prefix) == (before, "")


def test_the_text_fits_a_terminal_and_names_every_method_and_question(compared):
    _, _, _, comparison = compared
    lines = comparison_lines(comparison)
    assert max(len(line.text) for line in lines) <= WIDTH
    text = to_text(lines)
    for part in (
        "The capital of Canada is -> Rome (instead of Ottawa)",
        "Your questions",
        "Canada is in ___",
        "in-context",
    ):
        assert part in text
    json.dumps(comparison.to_json(), allow_nan=False)


def test_a_case_is_edited_as_in_a_run(capital, tmp_path):
    lm = untrained("gpt2")
    case = next(case for case in capital.cases if case.id == "CA")
    trial = Trial(lm, make_plan(EditWords(case="CA"), capital, lambda: []))
    trial.attempt(editor_class("lora"))
    answer = trial.compare().exchanges[0].after["lora"]
    task = replace(capital, cases=(case,))
    (finished,) = run(lm, [editor_class("lora")], [task], tmp_path, RunSettings(split="all"))
    (record,) = finished.records()
    observed = record.probes[0].after
    assert answer.wanted == pytest.approx(float(torch.tensor(observed.target.logprob).exp()), rel=1e-5)
    assert observed.target.logprob != pytest.approx(record.probes[0].before.target.logprob, rel=1e-3)


def test_a_masked_model_fills_its_masks(capital):
    lm = untrained("bert")
    trial = Trial(lm, make_plan(EditWords(case="CA"), capital, lambda: []))
    trial.attempt(editor_class("ft"))
    exchange = trial.compare().exchanges[0]
    query = lm.token_queries("The capital of Canada is", "Accra", ".")[0]
    with torch.inference_mode():
        best = lm.model(torch.tensor([query.ids])).logits[0, query.position].double().softmax(-1).topk(5)
    assert [t.probability for t in exchange.before.top] == pytest.approx(best.values.tolist(), rel=1e-4)


class Broken(Editor[NoConfig]):
    name, summary, Config = "broken", "Fails", NoConfig

    def edit(self, lm, requests):
        raise ZeroDivisionError("no step")


class Ruin(Editor[NoConfig]):
    name, summary, Config = "ruin", "Makes probabilities undefined", NoConfig

    def edit(self, lm, requests):
        name = lm.mlp_weight_name(1)
        return Edit(weights={name: torch.full_like(lm.parameter(name), 1e38)})


def test_a_failed_edit_does_not_stop_the_others(capital):
    lm = untrained("gpt2")
    trial = Trial(lm, make_plan(EditWords(case="CA"), capital, lambda: []))
    for cls in (Broken, Ruin, editor_class("none")):
        trial.attempt(cls)
    comparison = trial.compare()
    failures = [method.failure and (method.failure.phase, method.failure.type) for method in comparison.methods]
    assert failures[0] == ("edit", "ZeroDivisionError")
    assert failures[1] is not None
    assert failures[1][0] == "probe"
    assert failures[2] is None
    assert set(comparison.exchanges[0].after) == {"none"}
    assert all(exchange.after["none"].kl == 0 for exchange in comparison.exchanges)
    assert "broken: the edit failed: ZeroDivisionError: no step" in to_text(comparison_lines(comparison))
    assert trial.ask(own_questions(["{} is in"], "Canada"))[0].question.prompt == "Canada is in"


def test_an_edited_model_is_restored_after_the_block():
    lm = untrained("gpt2")
    before = lm.fingerprint()
    with edit(lm, "The capital of {} is", "Canada", "Rome", editor="ft", task="capital") as edited:
        assert lm.fingerprint() != before
        inside = distribution(lm, "The capital of Canada is")
        (exchange,) = edited.ask("The capital of {} is")
        assert exchange.after["ft"].top[0].probability == pytest.approx(float(inside.exp().max()), rel=1e-4)
        assert exchange.before.kl is None
        assert len(edited.compare().exchanges) > 5
        assert torch.equal(distribution(lm, "The capital of Canada is"), inside)
        assert "Canada" in repr(edited)
    assert lm.fingerprint() == before
    with pytest.raises(ZeroDivisionError), edit(lm, "The capital of {} is", "Canada", "Rome", editor="ft"):
        raise ZeroDivisionError
    assert lm.fingerprint() == before
    failing = edit(lm, "The capital of {} is", "Canada", "Rome", editor=Broken)
    with pytest.raises(KnbenchError, match=r"editor 'broken' failed: ZeroDivisionError: no step"), failing:
        pass


def test_a_model_of_transformers_is_edited_in_place():
    lm = untrained("llama")
    with edit(lm.model, "Rome is", new="old", editor="ft", tokenizer=lm.tokenizer) as edited:
        assert edited.model is lm.model
    with pytest.raises(KnbenchError, match="pass its tokenizer"), edit(lm.model, "Rome is", new="old"):
        pass


@pytest.mark.slow
def test_a_saved_model_answers_in_plain_transformers_as_the_edited_one(capital, tmp_path):
    lm = untrained("llama")
    folder = tmp_path / "new" / "edited"
    with edit(lm, "The capital of {} is", "Canada", "Rome", editor="ft", task=capital) as edited:
        assert edited.save(folder) == folder
        expected = distribution(lm, "The capital of Canada is")
    unedited = distribution(lm, "The capital of Canada is")
    command = [sys.executable, "-c", PLAIN, str(folder), "The capital of Canada is"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = torch.tensor(json.loads(done.stdout), dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, unedited, atol=1e-2)
    card = (folder / CARD).read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "after `The capital of Canada is`, the answer is\n`Rome` (before the edit: `Ottawa`)" in card
    details = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
    assert details["editors"][0]["name"] == "ft"
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".md", ".safetensors", ".jinja"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    again = edit(lm, "The capital of {} is", "Canada", "Rome", editor="ft")
    with again as edited, pytest.raises(KnbenchError, match="the folder exists and is not empty"):
        edited.save(folder)


@pytest.mark.parametrize(
    ("editor", "reason"),
    [
        ("in-context", "the edit of 'in-context' is a text before the prompt"),
        ("logit-bias", "the edit of 'logit-bias' is a memory beside the weights"),
        ("none", "'none' changes no weights"),
    ],
)
def test_what_is_no_change_of_weights_is_not_saved(capital, tmp_path, editor, reason):
    lm = untrained("gpt2")
    trial = Trial(lm, make_plan(EditWords(case="CA"), capital, lambda: []))
    method = trial.attempt(editor_class(editor))
    with pytest.raises(KnbenchError, match=reason):
        save_edited(lm, trial.compare(), method, tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []
