"""Locates the toy models in the package, and builds tokenizers for models of this size.

``toy-gpt2`` and ``toy-bert`` are tiny models, trained on the true sentences of the built-in tasks and on nothing else.
They answer most built-in probes and know no other English. They run everywhere without a download, and serve to try out
editors, plug-ins and masked models. Results on them say little about real models.

The weights are stored in float16 and are loaded in float32 by default. ``tools/train_toy_models.py`` of the source
repository trains them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

ToyKind = Literal["gpt2", "bert"]

WEIGHTS = "model.safetensors"
TRAINING = "training.json"

_END_OF_TEXT = "<|endoftext|>"
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def toy_folder(kind: str) -> Path:
    """Return the folder of a toy model, ``gpt2`` or ``bert``, inside the package."""
    return Path(__file__).with_name("toy_weights") / kind


def toy_revision(kind: str) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of a toy model's weights file."""
    training = json.loads((toy_folder(kind) / TRAINING).read_text(encoding="utf-8"))
    return str(training["weights_sha256"])[:12]


def causal_tokenizer(sentences: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer in the style of GPT-2.

    The end-of-text token is also BOS, and is not added to texts.

    Args:
        sentences: training text. The same sentences give the same tokenizer.
        vocabulary: number of tokens.
    """
    import transformers

    inner = _byte_level_bpe(sentences, [_END_OF_TEXT], vocabulary)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=_END_OF_TEXT, eos_token=_END_OF_TEXT)


def masked_tokenizer(sentences: Iterable[str], vocabulary: int) -> Any:
    """Train a cased byte-level BPE tokenizer that adds the special tokens of BERT.

    Args:
        sentences: training text. The same sentences give the same tokenizer.
        vocabulary: number of tokens.
    """
    import transformers
    from tokenizers import processors

    inner = _byte_level_bpe(sentences, _BERT_SPECIAL, vocabulary)
    pad, unknown, start, end, mask = _BERT_SPECIAL
    inner.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, inner.token_to_id(token)) for token in (start, end)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        unk_token=unknown,
        cls_token=start,
        sep_token=end,
        mask_token=mask,
    )


def _byte_level_bpe(sentences: Iterable[str], special: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE, which can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(list(sentences), trainer)
    return inner
