"""Checks of GGUF files. Each raises one line that names the file.

transformers reads a part of the settings in a GGUF file and ignores the others without a message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError, first_line
from .checkpoint import check_no_pointer

GGUF_VERSIONS = (2, 3)
GPT2_SPLITS = (
    *("gpt-2", "default", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2"),
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
)
"""Names of pre-tokenizers that split a text as GPT-2's. Those of the second line split digits as well; their
vocabularies have no token with a digit and another character, which gives the same tokens."""


def check_gguf(path: Path) -> None:
    """Check that a GGUF file is not empty, has the magic bytes and a known version, and is not a Git LFS pointer.

    Raises:
        KnbenchError: the file is not a GGUF file that can be read.
    """
    check_no_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        magic, version = stream.read(4), int.from_bytes(stream.read(4), "little")
    if size < 24:
        raise KnbenchError(f"GGUF file '{path}' is cut: it has {size} bytes, fewer than its header; copy it again")
    if magic != b"GGUF":
        raise KnbenchError(f"'{path}' is not a GGUF file: it does not start with the GGUF magic bytes")
    if version not in GGUF_VERSIONS:
        raise KnbenchError(f"GGUF file '{path}' has format version {version}; supported: 2 and 3")


def gguf_damage(path: Path) -> str | None:
    """Return why a GGUF file cannot be parsed, or None if it can.

    It reads the vocabulary, which takes seconds. Call it only after loading failed.
    """
    from gguf import GGUFReader

    try:
        GGUFReader(str(path))
    except Exception as error:  # the reader checks nothing: a cut file raises whatever the next operation raises
        return f"GGUF file '{path}' is cut or damaged ({first_line(error)}); copy it again"
    return None


def check_gguf_settings(path: Path, tokenizer: Any, model: Any) -> None:
    """Check that transformers used the settings of a GGUF file that change the outputs of its model.

    Args:
        path: the file.
        tokenizer: the tokenizer that transformers made from it.
        model: the model that transformers made from it.

    Raises:
        KnbenchError: the file scales rotary positions, splits texts in a way that the tokenizer does not, or has
            tensors that the model lacks.
    """
    from gguf import GGUFReader

    reader = GGUFReader(str(path))

    def setting(name: str) -> Any:
        field = next((field for key, field in reader.fields.items() if key.endswith(name)), None)
        return None if field is None else field.contents()

    scaled = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_") and (tensor.data != 1).any()]
    if setting(".rope.scaling.type") not in (None, "none") and setting(".rope.scaling.factor") not in (None, 1.0):
        scaled.append("rope.scaling")
    if scaled:
        raise KnbenchError(
            f"GGUF file '{path}' scales the rotary positions ({scaled[0]}), which transformers does not read from "
            "GGUF; use the model's safetensors folder"
        )
    split = setting("tokenizer.ggml.pre")
    if split not in (None, *GPT2_SPLITS) and _splits_like_gpt2(tokenizer):
        raise KnbenchError(
            f"GGUF file '{path}' has the pre-tokenizer '{split}', which transformers does not know, and other tokens "
            "would result; use the model's safetensors folder"
        )
    stored = sum(int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_"))
    used = sum(parameter.numel() for parameter in model.parameters())
    if stored > used:
        raise KnbenchError(
            f"GGUF file '{path}' has tensors that the architecture {type(model).__name__} lacks: {stored} values "
            f"instead of {used}; use the model's safetensors folder"
        )


def _splits_like_gpt2(tokenizer: Any) -> bool:
    """Return whether a byte-level tokenizer splits a text by the regular expression of GPT-2."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    return state is not None and state["type"] == "ByteLevel" and bool(state["use_regex"])
