"""What a result says of its model, its editor and how its numbers were taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..core.settings import RunSettings
from ..editing import Editor
from ..models.language_model import LanguageModel
from ..probing.drift import DriftGauge


def describe_model(lm: LanguageModel) -> dict[str, Any]:
    """Return what identifies a model, with a hash of its weights."""
    return {
        "name": lm.name,
        "revision": lm.revision,
        "weight_hash": lm.weight_hash(),
        **lm.shape,
        "objective": lm.family.objective,
        "parameters": sum(p.numel() for p in lm.model.parameters()),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }


def describe_editor(editor: Editor[Any], source: str, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Return an editor's card: description, hyper-parameters and where they come from."""
    return {
        "name": editor.name,
        "summary": editor.summary,
        "paper": editor.paper,
        "config": _plain(dataclasses.asdict(editor.config)),
        "config_source": source,
        "prepared": _plain(prepared),
    }


def describe_protocol(
    lm: LanguageModel, settings: RunSettings, cases: int, gauge: DriftGauge | None = None
) -> dict[str, Any]:
    """Return how the numbers were taken."""
    return {
        "regime": settings.regime,
        "batch_edits": settings.batch_edits,
        "checkpoints": list(settings.stops),
        "split": settings.split,
        "subset": None if settings.subset == "full" else settings.subset,
        "cases": cases,
        "limit": settings.limit,
        "known_only": settings.known_only,
        "known_by": settings.known_by if settings.known_only else None,
        "bos": lm.bos_policy,
        "bos_prepended": lm.bos_id is not None,
        "new_tokens": settings.new_tokens,
        "fluency_tokens": settings.fluency_tokens,
        "drift": gauge.card() if gauge else None,
        "batch_size": settings.batch_size,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
