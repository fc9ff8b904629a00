"""Training of the toy models: the statements, the training rows, reproducibility, and the stored weights."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Support, Task
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.models.toy import TRAINING, WEIGHTS, masked_tokenizer, toy_folder
from knbench.benchmark.probing.known import KnowledgeCache, knowledge
from knbench.benchmark.probing.prober import make_prober

from tools import train_toy_models as toy

FACTS = (("Canada", "Ottawa"), ("Italy", "Rome"), ("France", "Paris"), ("Spain", "Madrid"))


def make_task(cases: tuple[Case, ...], *, name: str = "made-up", kind: str = "fact", pairs: tuple = ()) -> Task:
    text = dict.fromkeys(("title", "description", "licence", "citation", "source", "relation"), "made up")
    return Task(name=name, version=1, kind=kind, criteria=(), cases=cases, pairs=pairs, **text)


def fact_case(country: str, city: str, wrong: str = "London") -> Case:
    request = EditRequest("The capital of {} is", country, wrong, city, (Support(f"{country}'s capital is", city),))
    probes = (
        Probe("reliability", "completion", request.text, wrong, city, "new"),
        Probe("release", "completion", f"{city} is the capital of", country, "England", "gone"),
        Probe("neighbourhood", "completion", "The capital of Norway is", "Oslo", wrong, "unchanged"),
    )
    return Case(country, request, probes)


SMALL_TASK = make_task(tuple(fact_case(*fact) for fact in FACTS))
SMALL = toy.TrainingConfig(layers=2, width=32, mlp_width=48, heads=2, vocabulary=400, epochs=2, batch=8)


# --- statements ----------------------------------------------------------------------------------------------------


def test_true_statements_say_what_holds_before_the_edit():
    texts = [s.text for s in toy.true_statements([SMALL_TASK])]
    assert texts[: len(FACTS)] == [f"The capital of {country} is {city}." for country, city in FACTS]
    assert "Ottawa is the capital of Canada." in texts
    assert "Canada's capital is Ottawa." in texts
    assert texts.count("The capital of Norway is Oslo.") == 1
    assert not any("London" in text or "England" in text for text in texts)


def test_a_phenomenon_gives_its_grammatical_sentences():
    request = EditRequest("{} usually", "The farmer", "paint", "paints")
    probes = (
        Probe("reliability", "completion", "The farmer usually", "paint", "paints", "new", suffix=" here."),
        Probe("symmetry", "minimal_pair", "", "The farmer usually paint.", "The farmers usually paint.", "new", (), ""),
    )
    pairs = ({"sentence_good": "The actor sings.", "sentence_bad": "The actor sing."},)
    task = make_task((Case("1", request, probes),), kind="linguistic", pairs=pairs)
    texts = [s.text for s in toy.true_statements([task])]
    assert texts == ["The farmer usually paints here.", "The farmers usually paint.", "The actor sings."]


def test_a_request_settles_what_is_true_and_else_the_first_statement_does():
    asked = "The capital of Spain is"
    doubtful = Probe("neighbourhood", "completion", asked, "Toledo", "London", "unchanged")
    first = Probe("neighbourhood", "completion", "The capital of Bolivia is", "Sucre", "London", "unchanged")
    second = Probe("neighbourhood", "completion", "The capital of Bolivia is", "La Paz", "London", "unchanged")
    before = make_task((Case("1", fact_case(*FACTS[0]).request, (doubtful, first, second)),), name="a")
    texts = [s.text for s in toy.true_statements([SMALL_TASK, before])]
    assert "The capital of Spain is Madrid." in texts
    assert "The capital of Spain is Toledo." not in texts
    assert "The capital of Bolivia is Sucre." in texts
    assert "The capital of Bolivia is La Paz." not in texts


def test_the_built_in_tasks_state_each_request():
    tasks = toy.built_in_tasks()
    statements = toy.true_statements(tasks)
    assert statements == toy.true_statements(reversed(tasks))
    stated = {(s.prompt, s.target) for s in statements}
    requests = [case.request for task in tasks for case in task.cases]
    assert all((request.text, request.target_true) in stated for request in requests)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_training_is_reproducible_and_leaves_torch_as_it_was(kind):
    statements = toy.true_statements([SMALL_TASK])
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, tokenizer = toy.train(kind, statements, SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(8)
    second, again = toy.train(kind, statements, SMALL)
    assert tokenizer.get_vocab() == again.get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    third, _ = toy.train(kind, statements, replace(SMALL, seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_few_facts_are_learnt(kind):
    config = replace(SMALL, width=64, mlp_width=128, epochs=100, learning_rate=3e-3, init_std=0.06)
    model, tokenizer = toy.train(kind, toy.true_statements([SMALL_TASK]), config)
    lm = LanguageModel(model, tokenizer, family_of(type(model).__name__), name=kind)
    store = KnowledgeCache.of(make_prober(lm))
    assert knowledge(store, SMALL_TASK)["exact"] == 1.0


def test_a_mask_of_a_dense_row_attends_to_the_tokens_that_precede_its_own():
    statements = [toy.Statement("The capital of Canada is", "Ottawa", ".")]
    config = replace(SMALL, loss_share=1.0, single_share=1.0)
    tokenizer = masked_tokenizer([s.text for s in statements] * 3, config.vocabulary)
    model = toy._bert(tokenizer, replace(config, init_std=0.5)).eval()
    ((row,),) = toy._MaskedRows(tokenizer, statements, config).batches(random.Random(0), plain=False)
    text = [i for i in range(len(row.ids)) if i not in row.labels]
    assert tokenizer.decode(row.ids[: len(text)]) == "[CLS]The capital of Canada is Ottawa.[SEP]"
    order, positions = row.visibility.order, row.visibility.positions
    with torch.inference_mode():
        for mask, label in row.labels.items():
            single = replace(row, labels={mask: label})
            before = toy._loss(model, "cls", [single], 0.0)
            for token in text:
                ids = (*row.ids[:token], tokenizer.unk_token_id, *row.ids[token + 1 :])
                depends = not torch.equal(toy._loss(model, "cls", [replace(single, ids=ids)], 0.0), before)
                assert depends == (order[token] < order[positions[mask]])


# --- storage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_saved_model_is_stored_in_float16_and_loads_in_float32(kind, tmp_path):
    statements = toy.true_statements([SMALL_TASK])
    model, tokenizer = toy.train(kind, statements, SMALL)
    weights = {name: weight.half().float() for name, weight in model.state_dict().items()}
    text = "The capital of Canada is Ottawa."
    ids = tokenizer(text).input_ids
    toy.save(kind, model, tokenizer, statements, tmp_path / "toy")
    lm = load_model(str(tmp_path / "toy"))
    assert lm.dtype == torch.float32
    assert all(torch.equal(weight, weights[name]) for name, weight in lm.model.state_dict().items())
    assert list(lm.encode(text).ids) == ids


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_stored_weights_belong_to_the_current_tasks(kind):
    """If this fails, the content of a task has changed: run ``python -m tools.train_toy_models``."""
    training = json.loads((toy_folder(kind) / TRAINING).read_text(encoding="utf-8"))
    assert training["training_digest"] == toy.training_digest(kind, toy.true_statements(toy.built_in_tasks()))
    assert training["weights_sha256"] == hashlib.sha256((toy_folder(kind) / WEIGHTS).read_bytes()).hexdigest()


def test_the_digest_depends_on_configuration_and_statements(monkeypatch):
    statements = toy.true_statements([SMALL_TASK])
    digests = {toy.training_digest(kind, statements) for kind in ("gpt2", "bert")}
    digests.add(toy.training_digest("gpt2", statements[1:]))
    monkeypatch.setitem(toy.CONFIGS, "gpt2", SMALL)
    digests.add(toy.training_digest("gpt2", statements))
    assert len(digests) == 4
