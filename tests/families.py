"""Tiny random models of further architectures, from the configurations of transformers, with settings that matter."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel

from tests.conftest import WIDTH, train_tokenizer

COMMON = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4}
BLOCKS = {**COMMON, "intermediate_size": 48, "max_position_embeddings": 128}
LLAMA = {**BLOCKS, "num_key_value_heads": 2}
GEMMA = {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
OPT = {**COMMON, "ffn_dim": 48, "max_position_embeddings": 128}
FALCON = {**COMMON, "ffn_hidden_size": 48}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
GEMMA_TEXT = {**GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2}

# Name: the prefix of the classes in transformers, the ending of the model's class, and the settings.
CAUSAL_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma": ("Gemma", "ForCausalLM", {**LLAMA, "head_dim": 8}),
    "gemma2": ("Gemma2", "ForCausalLM", GEMMA),
    "gemma3-conditional": ("Gemma3", "ForConditionalGeneration", {"text_config": GEMMA_TEXT, "vision_config": VISION}),
    "phi": ("Phi", "ForCausalLM", BLOCKS),
    "phi3": ("Phi3", "ForCausalLM", LLAMA),
    "opt": ("OPT", "ForCausalLM", {**OPT, "word_embed_proj_dim": WIDTH}),
    "opt-350m": ("OPT", "ForCausalLM", {**OPT, "word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "olmo": ("Olmo", "ForCausalLM", {**LLAMA, "clip_qkv": 2.0}),
    "olmo2": ("Olmo2", "ForCausalLM", LLAMA),
    "olmo3": ("Olmo3", "ForCausalLM", LLAMA),
    "falcon-7b": ("Falcon", "ForCausalLM", FALCON),
    "falcon-40b": ("Falcon", "ForCausalLM", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": (
        "Falcon",
        "ForCausalLM",
        {**FALCON, "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
    ),
    "bloom": ("Bloom", "ForCausalLM", {"hidden_size": WIDTH, "n_layer": 4, "n_head": 4}),
    "stablelm": ("StableLm", "ForCausalLM", {**LLAMA, "use_parallel_residual": True, "partial_rotary_factor": 0.5}),
    "granite": (
        "Granite",
        "ForCausalLM",
        {**LLAMA, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    "cohere": ("Cohere", "ForCausalLM", {**LLAMA, "use_qk_norm": True}),
    "cohere2": ("Cohere2", "ForCausalLM", LLAMA),
    "smollm3": ("SmolLM3", "ForCausalLM", LLAMA),
    "gpt-neo": (
        "GPTNeo",
        "ForCausalLM",
        {
            "hidden_size": WIDTH, "num_layers": 4, "num_heads": 4, "intermediate_size": 48, "window_size": 12,
            "max_position_embeddings": 128, "attention_types": [[["global", "local"], 2]],
        },
    ),
}  # fmt: skip
MASKED_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "roberta": ("Roberta", "ForMaskedLM", BLOCKS),
    "xlm-roberta": ("XLMRoberta", "ForMaskedLM", BLOCKS),
    "distilbert": (
        "DistilBert",
        "ForMaskedLM",
        {"dim": WIDTH, "hidden_dim": 48, "n_layers": 4, "n_heads": 4, "max_position_embeddings": 128},
    ),
    "modernbert": ("ModernBert", "ForMaskedLM", {**BLOCKS, "local_attention": 8}),
}
FURTHER_FAMILIES = {**CAUSAL_FAMILIES, **MASKED_FAMILIES}


def further_model(kind: str, *, seed: int = 0) -> Any:
    """Return a tiny model of transformers in evaluation mode. Weights and biases have a larger scale than usual."""
    prefix, ending, settings = FURTHER_FAMILIES[kind]
    tokenizer = train_tokenizer(bos=False)
    special = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    if "text_config" in settings:
        settings = {**settings, "text_config": {**settings["text_config"], **special}, "image_token_index": 2}
    elif ending == "ForMaskedLM":
        settings = {**special, "cls_token_id": 0, "sep_token_id": 1, **settings}
    else:
        settings = {**special, **settings}
    config = getattr(transformers, f"{prefix}Config")(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, prefix + ending)(config).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
            elif name.endswith("bias"):  # usually zero, which would hide a bias that is left out or added twice
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def further_lm(kind: str) -> LanguageModel:
    """Return a tiny model of a further architecture with its modules by role."""
    model = further_model(kind)
    return LanguageModel(model, train_tokenizer(bos=False), family_of(type(model).__name__), name=f"tiny-{kind}")
