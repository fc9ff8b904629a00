"""Loads a :class:`LanguageModel` by name: catalogue entry, hub id, local folder or GGUF file.

Loading executes no code that comes with a model and unpickles nothing. Weights are read from safetensors or GGUF files
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import KnbenchError, unknown_name
from .catalogue import catalogue, check_model_name, model_folder_format, model_label
from .packaged import packaged_folder
from .quiet import quiet_transformers

if TYPE_CHECKING:
    from .language_model import BosPolicy, LanguageModel

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
        KnbenchError: the name, folder, architecture, dtype or device is unusable. The message gives the reason.
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
    import transformers
    from safetensors import SafetensorError

    from .families import family_of
    from .language_model import LanguageModel

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path = Path(location)
    options: dict[str, Any] = {"trust_remote_code": False}
    if path.is_file():
        location, options["gguf_file"] = str(path.parent), path.name
    elif path.is_dir() and model_folder_format(path) == "gguf":
        options["gguf_file"] = next(path.glob("*.gguf")).name
    elif not path.exists():
        options["revision"] = revision
    try:
        with quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(location, **options)
            architectures = getattr(config, "architectures", None) or [_causal_class(config)]
            family = family_of(architectures[0])
            tokenizer = transformers.AutoTokenizer.from_pretrained(location, **options)
            model_class = getattr(transformers, architectures[0])
            weights = {} if "gguf_file" in options else {"use_safetensors": True}
            placement = {} if device_map is None else {"device_map": device_map}
            model = model_class.from_pretrained(
                location, dtype=getattr(torch, dtype), **options, **weights, **placement
            )
            model = model.to(device) if device_map is None else _check_no_offload(model, label)
    except KnbenchError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError, SafetensorError) as error:
        message = str(error).strip()
        first_line = message.splitlines()[0] if message else type(error).__name__
        hint = "" if path.exists() else "; offline, use a local folder or a packaged model (see: knbench list models)"
        raise KnbenchError(f"cannot load model '{label}': {first_line.rstrip('.')}{hint}") from error
    if not path.exists() and revision is None:
        revision = getattr(model.config, "_commit_hash", None)
    return LanguageModel(model, tokenizer, family, name=label, revision=revision, bos=bos)


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
