"""Checks of the files of a model and of a loaded model. Each raises one line that names the file or the tensor.

transformers initialises tensors that a weights file lacks with random numbers, and reports this in the log only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError, first_line

LFS_HEADER = b"version https://git-lfs"
TOKENIZER_FILES = ("tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
"""Patterns of files of which a model folder contains at least one if it has a tokenizer."""
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
STORED_DTYPES = ("F64", "F32", "F16", "BF16")
"""Types of weights in safetensors files that can be read without a scale from elsewhere."""
WHY_NOT_QUANTISED = (
    "they cannot be edited, because an edit changes real numbers; use the unquantised model, or a GGUF file, whose "
    "weights are read as real numbers"
)
_SHARD = re.compile(r"[^/\\:\x00]+\.safetensors")
"""Name of a file in a folder, without a path. transformers reads a file with another ending by ``torch.load``."""
_SHOWN = 3
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library


def check_folder(folder: Path) -> None:
    """Check the files of a local model folder before they are read.

    Raises:
        KnbenchError: a file is a Git LFS pointer, the folder has no tokenizer, or a weights file is missing, cut, or
            stores quantised weights.
    """
    for path in sorted(folder.iterdir()):
        check_no_pointer(path)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        raise KnbenchError(
            f"folder '{folder}' has no tokenizer (none of {', '.join(TOKENIZER_FILES)}); "
            "copy the tokenizer files of the model into it"
        )
    for path in _weights_files(folder):
        check_safetensors(path)


def stored_bytes(folder: Path) -> int:
    """Return the size of the weights files that transformers reads from a folder, in bytes."""
    return sum(path.stat().st_size for path in _weights_files(folder))


def check_no_pointer(path: Path) -> None:
    """Check that a file is not a Git LFS pointer.

    Raises:
        KnbenchError: the file is a pointer to a file in Git LFS.
    """
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(len(LFS_HEADER)) == LFS_HEADER:
                raise KnbenchError(f"'{path}' is a Git LFS pointer and not the file itself; run: git lfs pull")


def _weights_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers reads from a folder."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if not index.exists():
        found = _some(sorted(path.name for path in folder.glob("*.safetensors")))
        raise KnbenchError(f"folder '{folder}' has {found}, but neither {WEIGHTS} nor {WEIGHTS_INDEX}; copy the index")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()), key=str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KnbenchError(f"'{index}' is not an index of safetensors files: {first_line(error)}") from error
    foreign = [str(name) for name in names if not isinstance(name, str) or not _SHARD.fullmatch(name)]
    if foreign:
        raise KnbenchError(
            f"'{index}' names {_some(foreign)}; an index may name only *.safetensors files of its own folder"
        )
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise KnbenchError(
            f"folder '{folder}' lacks {len(missing)} of its {len(names)} weights files: {_some(missing)}; "
            "copy them into it"
        )
    return [folder / name for name in names]


def check_safetensors(path: Path) -> None:
    """Check that a safetensors file is complete and stores weights of a floating-point type.

    Only the header is read.

    Raises:
        KnbenchError: the file is cut, is not a safetensors file, or stores quantised weights.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > _LARGEST_HEADER:
            raise KnbenchError(f"'{path}' is not a safetensors file or is cut ({size} bytes); copy it again")
        header = stream.read(length)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        expected = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        dtypes = {name: str(entry["dtype"]) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"is cut: its header needs {length} bytes" if size < 8 + length else "has a damaged header"
        raise KnbenchError(f"'{path}' {reason} and the file has {size}; copy it again") from error
    if size != expected:
        state = "cut" if size < expected else "damaged"
        raise KnbenchError(
            f"'{path}' is {state}: it has {size} bytes and its header describes {expected}; copy it again"
        )
    other = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in STORED_DTYPES]
    if quantised := [name for name in other if ".weight" in name or "qweight" in name]:
        raise KnbenchError(f"'{path}' stores quantised weights: {_some(quantised)}; {WHY_NOT_QUANTISED}")


def check_unquantised(label: str, config: Any) -> None:
    """Check that a configuration does not describe quantised weights.

    Raises:
        KnbenchError: the configuration names a quantisation method.
    """
    for part in (config, config.get_text_config()):
        for key in ("quantization_config", "compression_config"):
            if settings := getattr(part, key, None):
                values = settings if isinstance(settings, Mapping) else vars(settings)
                method = values.get("quant_method") or "method unknown"
                method = getattr(method, "value", method)
                raise KnbenchError(
                    f"model '{label}' has quantised weights ({key} in its config.json: {method}); {WHY_NOT_QUANTISED}"
                )


def check_loading_report(label: str, report: Mapping[str, Collection[Any]]) -> tuple[str, ...]:
    """Check the loading report of transformers, and return the tensors of the file that the model does not have.

    Args:
        label: name of the model in messages.
        report: ``missing_keys``, ``mismatched_keys`` (name, size in the file, size in the model) and
            ``unexpected_keys``, as ``from_pretrained(..., output_loading_info=True)`` returns them. Tied tensors, of
            which a file contains one, are not missing.

    Raises:
        KnbenchError: tensors are missing or have another size than the configuration implies.
    """
    unused = tuple(sorted(report["unexpected_keys"]))
    if mismatched := sorted(report["mismatched_keys"]):
        sizes = [
            f"{name} is {_size(stored)} in the file and {_size(built)} by config.json"
            for name, stored, built in mismatched
        ]
        raise KnbenchError(
            f"the weights of model '{label}' do not fit its config.json: {_some(sizes)}; use the config.json that "
            "belongs to the weights"
        )
    if missing := sorted(report["missing_keys"]):
        hint = f" (the file has other names, for example {unused[0]})" if unused else ""
        raise KnbenchError(
            f"the weights of model '{label}' lack tensors that its config.json implies: {_some(missing)}{hint}; use "
            "complete weights and the config.json that belongs to them"
        )
    return unused


def unused_note(label: str, unused: Sequence[str]) -> str:
    """Return the warning about tensors that :func:`check_loading_report` returns."""
    return f"the architecture of model '{label}' lacks tensors of its weights, which are not used: {_some(unused)}"


def check_finite(label: str, model: Any) -> None:
    """Check that all parameters are finite.

    Raises:
        KnbenchError: a parameter contains NaN or infinity; names it.
    """
    import torch

    # One sum per parameter is finite if all elements are, overflow aside, and needs no memory. Elements are looked at
    # only where it is not.
    with torch.inference_mode():
        sums = {name: p.sum(dtype=torch.float32) for name, p in model.named_parameters()}
        suspects = [name for name, value in sums.items() if not bool(torch.isfinite(value))]
        bad = [name for name in suspects if not bool(torch.isfinite(model.get_parameter(name)).all())]
    if bad:
        dtype = str(model.get_parameter(bad[0]).dtype).removeprefix("torch.")
        hint = "; float16 cannot hold large values, use --dtype float32 or bfloat16" if dtype == "float16" else ""
        raise KnbenchError(f"the weights of model '{label}' contain NaN or infinity, in: {_some(bad)}{hint}")


def check_vocabulary(label: str, tokenizer: Any, model: Any) -> None:
    """Check that the embedding has a row for each token that the tokenizer can produce.

    Special tokens that are not in use may be beyond the embedding: only a text that spells them contains them. The
    tokenizer of Gemma 3, for example, has an image token that its text models lack. The padding token may be as well,
    because the attention mask excludes it.

    Raises:
        KnbenchError: a token id is beyond the embedding; names both sizes.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values(), default=-1) < rows:
        return
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    in_use = ("bos_token", "eos_token", "cls_token", "sep_token", "mask_token")
    special -= {str(getattr(tokenizer, name)) for name in in_use}
    special -= {getattr(tokenizer.backend_tokenizer.model, "unk_token", None)}
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= rows and token not in special)
    if beyond:
        raise KnbenchError(
            f"model '{label}': the tokenizer has {max(vocabulary.values()) + 1} tokens and the embedding {rows} rows; "
            f"beyond it: {_some([repr(token) for _, token in beyond])}; resize the embedding (resize_token_embeddings) "
            "or use the tokenizer of the model"
        )


def check_tokenizer(label: str, tokenizer: Any) -> None:
    """Check that a tokenizer has a vocabulary and, if it is a BPE tokenizer, the merges that make its tokens.

    transformers builds a tokenizer without vocabulary if files are missing. With a cut list of merges, words are split
    into smaller tokens than those that the model was trained on.

    Raises:
        KnbenchError: no token encodes a word, or the merges do not make more than :data:`_MOST_WITHOUT_MERGES`
            of the tokens.
    """
    ids = tokenizer("capital", add_special_tokens=False).input_ids
    unknown = tokenizer.unk_token_id
    if not ids or (unknown is not None and set(ids) == {unknown} and len(tokenizer) <= _EMPTY_VOCABULARY):
        raise KnbenchError(f"model '{label}': the vocabulary of its tokenizer is empty; copy all tokenizer files")
    share, example = _without_merges(tokenizer)
    if share > _MOST_WITHOUT_MERGES:
        raise KnbenchError(
            f"model '{label}': the merges of its tokenizer are cut: {share:.0%} of its tokens, for example "
            f"{example!r}, are never used; copy all tokenizer files (tokenizer.json, merges.txt) again"
        )


_EMPTY_VOCABULARY = 16
"""A tokenizer with at most this number of tokens has special tokens only."""
_MOST_WITHOUT_MERGES = 0.05
"""Largest share of the tokens of a BPE vocabulary that its merges do not make; whole tokenizers have below 0.002."""
_SAMPLE = 2000
"""Number of tokens whose merges are checked."""


def _without_merges(tokenizer: Any) -> tuple[float, str]:
    """Return the share of the longer tokens of a BPE vocabulary that its merges do not make, and one of them.

    Single characters, bytes ("<0x0A>") and added tokens need no merges.
    """
    model = tokenizer.backend_tokenizer.model
    if type(model).__name__ != "BPE":
        return 0.0, ""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    vocabulary = tokenizer.get_vocab()
    tokens = sorted((t for t in vocabulary if len(t) > 1 and t not in added), key=lambda t: vocabulary[t])
    sample = [token for token in tokens[:: len(tokens) // _SAMPLE + 1] if not _BYTE.fullmatch(token)]
    missing = [token for token in sample if [part.value for part in model.tokenize(token)] != [token]]
    return len(missing) / max(len(sample), 1), missing[0] if missing else ""


_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _some(names: Sequence[str]) -> str:
    """Return the first names of a list and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
