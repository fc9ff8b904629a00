"""The toy models in the package, their tokenizers, and untrained models."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.models.toy import causal_tokenizer, masked_tokenizer, toy_folder
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing.known import KnowledgeCache, known_cases, right_pairs
from knbench.benchmark.probing.prober import make_prober

from tools.train_toy_models import built_in_tasks

MEGABYTE = 1_000_000


@pytest.mark.parametrize(("name", "causal"), [("toy-gpt2", True), ("toy-bert", False)])
def test_a_toy_loads_without_cache_and_output(name, causal, own_cache, capsys):
    lm = load_model(name)
    assert capsys.readouterr().err == ""
    assert not list(own_cache.iterdir())
    assert lm.causal is causal
    assert lm.bos_id is None
    assert lm.name == name
    assert len(lm.revision) == 12
    assert lm.dtype == torch.float32
    assert lm.weight_hash() == load_model(name).weight_hash()
    ids = lm.encode("The capital of Canada is Ottawa.").ids
    assert ids[-1] == lm.tokenizer.convert_tokens_to_ids("." if causal else "[SEP]")


def test_the_toys_are_small():
    files = [path for kind in ("gpt2", "bert") for path in toy_folder(kind).iterdir()]
    assert sum(path.stat().st_size for path in files) < 6 * MEGABYTE


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_tokenizers_write_any_text_and_frame_it_as_their_model_wants(kind):
    make = masked_tokenizer if kind == "bert" else causal_tokenizer
    tokenizer = make(["The capital of Canada is Ottawa."] * 3, 400)
    text = "Łódź is née Straße, 東京 😀!"
    bare = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(bare) == text
    framed = tokenizer(text).input_ids
    assert framed == ([tokenizer.cls_token_id, *bare, tokenizer.sep_token_id] if kind == "bert" else bare)


# --- untrained models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("bert", "BertForMaskedLM")],
)
def test_untrained_models_follow_from_their_seed(kind, architecture):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    lm = untrained(kind)
    assert torch.equal(torch.get_rng_state(), state)
    assert lm.shape["architecture"] == architecture
    assert lm.causal == (kind != "bert")
    assert (lm.n_layers in (3, 4), lm.shape["width"]) == (True, 32)
    assert lm.weight_is_transposed(0) == (kind == "gpt2")
    assert sorted(lm.mlp_out(0).weight.shape) == [32, 48]
    assert lm.weight_hash() == untrained(kind).weight_hash() != untrained(kind, seed=1).weight_hash()


# --- accuracy --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy-gpt2", pytest.param("toy-bert", marks=pytest.mark.long)])
def test_a_toy_knows_the_built_in_tasks(name):
    store = KnowledgeCache.of(make_prober(load_model(name), batch_size=128))
    tasks = built_in_tasks()
    cases = {task.name: known_cases(store, task).values() for task in tasks}
    # Two answers of which one begins the other ("Niger", "Nigeria") cannot be ranked, so a case may have no success.
    ranked = {task: [case["success"] for case in known if case["success"] is not None] for task, known in cases.items()}
    assert all(len(ranked[task]) >= 0.99 * len(known) for task, known in cases.items())
    success = {task: mean(values) for task, values in ranked.items()}
    assert success["capital"] >= 0.95
    assert mean(case["exact"] for case in cases["capital"]) >= 0.8
    assert mean(success.values()) >= 0.9
    right = [mean(right_pairs(store, task).values()) >= 0.9 for task in tasks if task.pairs]
    assert sum(right) > len(right) / 2
