"""Hashes of tokenizers and configurations: equal for equal outputs, different for different ones."""

from __future__ import annotations

import copy
import json

import pytest
import transformers
from knbench.benchmark.models.identity import config_hash, tokenizer_hash
from knbench.benchmark.models.loading import load_model

from tests.conftest import make_lm, train_tokenizer


def test_the_layout_of_the_files_does_not_change_the_hash_of_a_tokenizer(tmp_path):
    tokenizer = copy.deepcopy(train_tokenizer(bos=False))
    first = tokenizer_hash(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    file.write_text(json.dumps(content, indent=7))
    assert tokenizer_hash(transformers.AutoTokenizer.from_pretrained(tmp_path)) == first


def test_padding_and_truncation_of_a_call_do_not_change_the_hash_of_a_tokenizer():
    tokenizer = copy.deepcopy(train_tokenizer(bos=False))
    tokenizer.pad_token = None
    first = tokenizer_hash(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    padded = tokenizer_hash(tokenizer)
    tokenizer(["Rome", "The capital of Italy"], padding=True, truncation=True, max_length=3)
    assert tokenizer_hash(tokenizer) == padded != first  # the padding token is in use


@pytest.mark.parametrize("change", ["bos", "merges", "lower", "added", "special"])
def test_a_tokenizer_that_encodes_otherwise_has_another_hash(change, tmp_path):
    tokenizer = copy.deepcopy(train_tokenizer(bos=False))
    first = tokenizer_hash(tokenizer)
    if change == "bos":
        tokenizer = train_tokenizer(bos=True)
    elif change == "added":
        tokenizer.add_tokens(["Zürich"])
    elif change == "special":
        tokenizer.eos_token = "a"
    else:
        tokenizer.save_pretrained(tmp_path)
        file = tmp_path / "tokenizer.json"
        content = json.loads(file.read_text())
        if change == "merges":
            content["model"]["merges"] = content["model"]["merges"][:-5]
        else:
            content["normalizer"] = {"type": "Lowercase"}
        file.write_text(json.dumps(content))
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_hash(tokenizer) != first


def test_names_versions_and_defaults_do_not_change_the_hash_of_a_configuration():
    config = make_lm("llama").model.config
    first = config_hash(config)
    changes = {"name_or_path": "/x", "transformers_version": "4.0", "dtype": "bfloat16", "architectures": None}
    changes |= {"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": False, "temperature": 0.3}
    changes |= {"torch_dtype": "float16", "id2label": {0: "a"}, "_attn_implementation": "eager", "new_option": None}
    for name, value in changes.items():
        setattr(config, name, value)
    assert config_hash(config) == first


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("llama", "hidden_act", "relu"),
        ("llama", "rms_norm_eps", 1e-3),
        ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "activation_function", "gelu"),
        ("mistral", "sliding_window", 3),
        ("gemma3", "query_pre_attn_scalar", 7),
        ("neox", "use_parallel_residual", False),
    ],
)
def test_a_configuration_that_computes_otherwise_has_another_hash(kind, name, value):
    config = make_lm(kind).model.config
    first = config_hash(config)
    setattr(config, name, value)
    assert config_hash(config) != first


def test_hashes_are_equal_after_saving_and_for_every_dtype(model_folder):
    lm = make_lm("llama")
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(str(model_folder), dtype=dtype)
        assert (loaded.tokenizer_hash, loaded.config_hash) == (lm.tokenizer_hash, lm.config_hash)
