"""Tiny models with random weights, for tests of editors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import torch
import transformers

from .families import family_of
from .language_model import LanguageModel
from .toy import causal_tokenizer, masked_tokenizer

UntrainedKind = Literal["gpt2", "llama", "bert"]

_WIDTH, _MLP_WIDTH = 32, 48
_SENTENCES = (
    "The capital of Canada is Ottawa and the capital of Italy is Rome.",
    "The capital of France is Paris. Rome is the capital of Italy. Ottawa is the capital of Canada.",
    "Susan liked this sketch and these sketches, that book and those books.",
    "The sisters usually bake. The sister usually bakes. Susan praised herself.",
    "Albert Einstein works in the field of physics; Danielle Darrieux is a famous actress.",
    "Because it was late, nobody came. You and I saw Mexico City.",
)


@cache
def _tokenizer(causal: bool) -> Any:
    build = causal_tokenizer if causal else masked_tokenizer
    return build(_SENTENCES * 4, 420)  # BPE merges only pairs that occur more than once


def _gpt2(vocabulary: int) -> Any:
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=_WIDTH,
        n_inner=_MLP_WIDTH,
        n_layer=4,
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def _llama(vocabulary: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=_WIDTH,
        intermediate_size=_MLP_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def _bert(vocabulary: int) -> Any:
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=_WIDTH,
        intermediate_size=_MLP_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    return transformers.BertForMaskedLM(config)


_BUILDERS: Mapping[UntrainedKind, Callable[[int], Any]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "bert": _bert,
}


def untrained(kind: UntrainedKind, seed: int = 0) -> LanguageModel:
    """Return a tiny model with random weights, for tests of editors. Its creation takes milliseconds.

    It has 3 or 4 layers of width 32 and MLPs of width 48, because a square matrix would hide a wrong transposition. The
    weights have a larger scale than usual initial weights, because otherwise the layers would hardly affect the
    logits. The global random state of torch is preserved.

    Args:
        kind: ``gpt2`` stores W transposed, ``llama`` has a gated MLP, ``bert`` fills masks.
        seed: seed of the weights.
    """
    tokenizer = _tokenizer(kind != "bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _BUILDERS[kind](len(tokenizer))
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(model, tokenizer, family_of(type(model).__name__), name=f"untrained-{kind}")
