"""Hashes of a model's tokenizer and of its configuration, which determine its outputs together with the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_TOKENIZER_STATE = ("padding", "truncation", "version")
"""Parts of a serialised tokenizer that depend on the last call or on the library."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NOT_COMPUTING = frozenset(
    (
        *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "name_or_path"),
        *("finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
        *("gradient_checkpointing", "initializer_factor", "initializer_range", "attn_implementation"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache", "torchscript"),
        *("pad_token_id", "sep_token_id", "decoder_start_token_id"),
        # Defaults of generation, which configurations of older versions of transformers contain.
        *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
        *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
        *("forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
        *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values"),
        *("repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p"),
        "typical_p",
    )
)


def tokenizer_hash(tokenizer: Any) -> str:
    """Return a sha256 of a fast tokenizer: its serialised backend and the special tokens in use.

    The hash does not depend on the layout of the files, on padding or on truncation.

    Args:
        tokenizer: a fast tokenizer of transformers.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in _TOKENIZER_STATE:
        backend.pop(name, None)
    model = backend.get("model") or {}
    if model.get("merges"):  # written as "a b" by tokenizers before 0.20 and as ["a", "b"] since
        model["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {name: None if (token := getattr(tokenizer, name)) is None else str(token) for name in _SPECIAL_TOKENS}
    return _sha256({"backend": backend, "special": special})


def config_hash(config: Any, generation_config: Any = None) -> str:
    """Return a sha256 of the part of a model's configuration that determines its outputs.

    Names, paths, versions, dtype, labels, dropout, initialisation and defaults of generation are left out.

    Args:
        config: a configuration of transformers.
        generation_config: the model's configuration of generation, of which the end-of-text tokens count, since they
            end a continuation; or None.
    """
    end = getattr(generation_config, "eos_token_id", None)
    ends = sorted(end if isinstance(end, list | tuple) else [] if end is None else [end])
    return _sha256([_computing_part(config.to_dict()), ends])


def _computing_part(value: Any) -> Any:
    """Return a configuration without the entries that do not affect the outputs, at every depth."""
    if isinstance(value, Mapping):
        return {str(key): _computing_part(v) for key, v in value.items() if v is not None and _computes(str(key))}
    return [_computing_part(item) for item in value] if isinstance(value, list | tuple) else value


def _computes(key: str) -> bool:
    return not (key.startswith("_") or key in _NOT_COMPUTING or "dropout" in key or key.endswith("_pdrop"))


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
