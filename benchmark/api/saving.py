"""Saves an edited model as a folder that transformers loads: weights, tokenizer, and a card that describes the edit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import KnbenchError
from ..core.files import json_text
from ..core.version import __version__
from ..models.catalogue import catalogue
from ..models.language_model import LanguageModel
from ..models.quiet import quiet_transformers
from .answers import Answer
from .text import format_probability
from .trial import Attempted, Comparison, describe_attempt

CARD, DETAILS = "README.md", "knbench_edit.json"
"""File names of the model card and of the machine-readable description of the edit."""


def check_folder(folder: Path) -> None:
    """Check that a folder for a model can be made, before anything is computed.

    Raises:
        KnbenchError: it exists and is not empty, or it is a file.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise KnbenchError(f"--save '{folder}': the folder exists and is not empty; choose another one")
    if folder.exists() and not folder.is_dir():
        raise KnbenchError(f"--save '{folder}': a file of this name exists; choose another one")


def save_edited(lm: LanguageModel, comparison: Comparison, method: Attempted, folder: Path) -> Path:
    """Save the edited model, its tokenizer and a model card.

    ``transformers.AutoModelForCausalLM.from_pretrained(folder)`` loads it (``AutoModelForMaskedLM`` for a masked
    model). The folder appears only when it is complete. The model is unedited afterwards, if it was before.

    Args:
        lm: the unedited model.
        comparison: the edit with its answers, for the card.
        method: the attempt whose edit is applied.
        folder: a folder that does not exist or is empty.

    Returns:
        The folder.

    Raises:
        KnbenchError: the edit failed or is not one of weights, the folder exists, or it cannot be written.
    """
    check_folder(folder)
    if method.edit is None or method.unsaveable is not None:
        raise KnbenchError(f"cannot save the model: {method.unsaveable}; methods that change weights: rome, memit, ft")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "model"
            with method.edit.applied(lm), quiet_transformers():
                lm.model.save_pretrained(made, safe_serialization=True)
                lm.tokenizer.save_pretrained(made)
            (made / CARD).write_text(model_card(lm, comparison, method), encoding="utf-8")
            details = {**comparison.to_json(), "editors": [describe_attempt(method)]}
            (made / DETAILS).write_text(json_text(details), encoding="utf-8")
            for path in made.iterdir():  # safetensors writes files that only the owner can read
                path.chmod(0o644)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise KnbenchError(f"cannot save the model in '{folder}': {error.strerror or error}") from error
    return folder


def model_card(lm: LanguageModel, comparison: Comparison, method: Attempted) -> str:
    """Return the model card in Markdown, with the metadata of the Hugging Face hub."""
    request, name = comparison.plan.request, comparison.model["name"]
    entry = catalogue().get(name)
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["model-editing", "knbench", method.name],
        "base_model": None if entry is None else entry.source.get("hub"),
        "pipeline_tag": "text-generation" if lm.causal else "fill-mask",
    }
    auto = "AutoModelForCausalLM" if lm.causal else "AutoModelForMaskedLM"
    old = f" (before the edit: {_code(request.target_true)})" if request.target_true else ""
    config = "\n".join(f"| {key} | {_code(value)} |" for key, value in method.card.config.items())
    revision = "" if comparison.model["revision"] is None else f", revision {_code(comparison.model['revision'])}"
    licence = "" if entry is None else f"\nLicence of the base model: {entry.licence}. {entry.terms}".rstrip() + "\n"
    return f"""---
{yaml.safe_dump({key: value for key, value in metadata.items() if value}, sort_keys=False).strip()}
---

# {name}, edited with {method.name}

One fact of {_code(name)}{revision} was changed in the weights: after {_code(request.text)}, the answer is
{_code(request.target_new)}{old}.

```python
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## The edit

Method: {method.card.summary}{_paper(method.card.paper)} Changed parameters: {_parameters(method)}.

| hyper-parameter | value |
| --- | --- |
{config or "| - | - |"}

Source of the hyper-parameters: {method.card.config_source}. The edit was made with KNBench {__version__} in
{comparison.model["dtype"]}. `{DETAILS}` holds this description as JSON.

## Before and after

{_answers_table(comparison, method.name)}

An edited model may have lost other knowledge. The questions above are few; `knbench run` measures an editing method on
many edits.
{licence}"""


def _answers_table(comparison: Comparison, method: str) -> str:
    rows = [
        f"| {_code(exchange.question.prompt)} | {_said(exchange.before)} | {_said(exchange.after[method])} | "
        f"{exchange.after[method].kl or 0:.2f} |"
        for exchange in comparison.exchanges
        if method in exchange.after
    ]
    return "\n".join(["| prompt | before | after | KL (nats) |", "| --- | --- | --- | --- |", *rows])


def _said(answer: Answer) -> str:
    return f"{_code(answer.continuation.strip())} ({format_probability(answer.top[0].probability)})"


def _code(value: Any) -> str:
    """Return a value as code in Markdown, in one line, for a cell of a table."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = "``" if "`" in text else "`"
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`" if text else "(empty)"


def _paper(paper: str) -> str:
    return f" ({paper})." if paper else "."


def _parameters(method: Attempted) -> str:
    names = sorted(method.edit.weights) if method.edit else []
    return ", ".join(_code(name) for name in names)
