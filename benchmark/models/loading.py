"""Loads a :class:`LanguageModel` by name: catalogue entry, hub id, local folder or GGUF file.

Loading executes no code that comes with a model and unpickles nothing. Weights are read from safetensors or GGUF files
only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import KnbenchError, unknown_name
from . import checkpoint, gguf_files
from .catalogue import (
    ADAPTER_ADVICE,
    catalogue,
    check_model_name,
    check_no_adapter,
    model_folder_format,
    model_label,
)
from .claims import check_claims, no_pickled_files
from .packaged import is_fetched, packaged_folder
from .quiet import quiet_transformers

if TYPE_CHECKING:
    from .families import ModelFamily
    from .language_model import LanguageModel
    from .special_tokens import BosPolicy

DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    name: str,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    revision: str | None = None,
    bos: BosPolicy = "auto",
    device_map: str | Mapping[str, str | int] | None = None,
) -> LanguageModel:
    """Load a model by catalogue name, hub id, local folder or GGUF file.

    Args:
        name: the model, looked up in the catalogue, then as a path, then on the hub.
        device: a torch device.
        dtype: one of ``float32``, ``bfloat16``, ``float16``.
        revision: the commit of a hub model.
        bos: see :class:`LanguageModel`.
        device_map: distributes the model across devices and replaces ``device``: ``auto``, ``balanced``,
            ``sequential``, or devices by module name, as in accelerate.

    Raises:
        KnbenchError: the name, folder, architecture, dtype or device is unusable; the weights are incomplete, cut,
            quantised or not finite, or do not fit the configuration or the tokenizer. The message gives the reason.
    """
    check_model_name(name)
    location, revision = _locate(name, revision)
    return _load(
        location,
        label=model_label(name),
        revision=revision or None,
        device=device,
        device_map=device_map,
        dtype=dtype,
        bos=bos,
    )


def stored_model_bytes(name: str, revision: str | None = None) -> int | None:
    """Return the size of a model's weights files, or None if they are not on this machine.

    Args:
        name: as for :func:`load_model`.
        revision: the commit of a hub model.
    """
    entry = catalogue().get(name)
    if entry is not None and "package" in entry.source and not is_fetched(entry):
        return None
    location, revision = _locate(name, revision)
    path = Path(location)
    if path.is_file():
        return path.stat().st_size
    if path.is_dir():
        return sum(file.stat().st_size for pattern in ("*.safetensors", "*.gguf") for file in path.glob(pattern))
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(location, "config.json", revision=revision)
    folder = Path(config).parent if isinstance(config, str) else None
    return None if folder is None else sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None


def _locate(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return the path or hub id of a model, and its revision."""
    entry = catalogue().get(name)
    if entry is None:
        local = Path(name).expanduser()
        return (str(local) if local.exists() else name), revision
    if "package" in entry.source:
        return str(packaged_folder(entry)), entry.source["package"]
    if "bundled" in entry.source:
        from .toy import toy_folder, toy_revision

        return str(toy_folder(entry.source["bundled"])), toy_revision(entry.source["bundled"])
    return entry.source["hub"], revision or entry.source.get("revision")


def _load(
    location: str,
    *,
    label: str,
    revision: str | None,
    device: str,
    device_map: str | Mapping[str, str | int] | None,
    dtype: str,
    bos: BosPolicy,
) -> LanguageModel:
    import torch

    from .language_model import LanguageModel

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path = Path(location)
    options: dict[str, Any] = {"trust_remote_code": False}
    gguf = None
    if path.is_file():
        gguf = path
    elif path.is_dir() and model_folder_format(path) == "gguf":
        gguf = next(path.glob("*.gguf"))
    elif not path.exists():
        options["revision"] = revision
    placement = {} if device_map is None else {"device_map": device_map}
    stored = None
    try:
        if gguf is not None:
            gguf_files.check_gguf(gguf)
            check_no_adapter(gguf.parent)
            stored = gguf.stat().st_size
            location, options["gguf_file"] = str(gguf.parent), gguf.name
        elif path.is_dir():
            checkpoint.check_folder(path)
            stored = checkpoint.stored_bytes(path)
        with quiet_transformers(), no_pickled_files():
            family, tokenizer, model, report = _read(location, label, getattr(torch, dtype), options, placement, stored)
            model = model.to(device) if device_map is None else _check_no_offload(model, label)
    except KnbenchError:
        raise
    except Exception as error:  # readers of damaged files raise errors of every type
        hint = "" if path.exists() else "; offline, use a local folder or a packaged model (see: knbench list models)"
        damage = None if gguf is None else gguf_files.gguf_damage(gguf)
        raise KnbenchError(f"cannot load model '{label}': {damage or _reason(error) + hint}") from error
    unused = checkpoint.check_loading_report(label, report)
    if gguf is not None:
        gguf_files.check_gguf_settings(gguf, tokenizer, model)
    checkpoint.check_vocabulary(label, tokenizer, model)
    checkpoint.check_finite(label, model)
    if unused:
        print(f"knbench: warning: {checkpoint.unused_note(label, unused)}", file=sys.stderr, flush=True)
    if not path.exists() and revision is None:
        revision = getattr(model.config, "_commit_hash", None)
    return LanguageModel(model, tokenizer, family, name=label, revision=revision, bos=bos, unused_tensors=unused)


def _read(
    location: str,
    label: str,
    dtype: Any,
    options: Mapping[str, Any],
    placement: Mapping[str, Any],
    stored_bytes: int | None,
) -> tuple[ModelFamily, Any, Any, Mapping[str, Any]]:
    """Return the family, the tokenizer, the model and the loading report of transformers."""
    import transformers

    from .families import family_of

    config = transformers.AutoConfig.from_pretrained(location, **options)
    check_claims(label, config, stored_bytes)
    weights: dict[str, Any] = {}
    if "gguf_file" not in options:
        checkpoint.check_unquantised(label, config)
        weights = {"use_safetensors": True}
    names = getattr(config, "architectures", None) or _causal_class(config)
    architecture = names if isinstance(names, str) else names[0]
    family = family_of(architecture, config)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(location, **options)
    except Exception as error:
        if "gguf_file" in options or isinstance(error, OSError):  # a damaged GGUF file, or the hub
            raise
        raise KnbenchError(f"cannot read the tokenizer of model '{label}': {_reason(error)}") from error
    checkpoint.check_tokenizer(label, tokenizer)
    # Tensors of another size are left out and reported, instead of an error that names none of them.
    model, report = getattr(transformers, architecture).from_pretrained(
        location,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
        **weights,
        **placement,
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise KnbenchError(f"model '{label}' contains an adapter; {ADAPTER_ADVICE}")
    return family, tokenizer, model, report


def _reason(error: Exception) -> str:
    """Return an error of a reader in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 or not lines[0].endswith(":") else " ".join(lines[:2])
    named = isinstance(error, OSError | ValueError | RuntimeError | AssertionError) or type(error) is Exception
    return (text if named else f"{type(error).__name__}: {text}").rstrip(".:")


def _check_no_offload(model: Any, label: str) -> Any:
    """Return a distributed model after checking that every weight is on a device, where it can be read and edited.

    Raises:
        KnbenchError: accelerate offloaded weights to main memory or disk, from which it fetches them for each use.
    """
    offloaded = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if offloaded:
        raise KnbenchError(
            f"model '{label}' does not fit on the devices: {len(offloaded)} of its tensors, for example "
            f"{offloaded[0]}, would be offloaded and could not be edited; use more or larger GPUs, or --dtype bfloat16"
        )
    return model


def _causal_class(config: Any) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)
    return name
