"""Describes the model, the editor, the task and the protocol of a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..core.documents import EditorCard, ModelCard, RunProtocol, TaskCard
from ..core.local_paths import public_value, without_folders
from ..core.printable import escaped
from ..core.schema import Task, digest
from ..core.settings import RunSettings
from ..editing import Editor
from ..models.language_model import LanguageModel
from ..probing.drift import DriftGauge
from ..probing.passages import PASSAGE_SET

SECONDS = "seconds"
"""Key of the time in the return value of :meth:`~benchmark.editing.Editor.train`."""


def describe_model(lm: LanguageModel) -> ModelCard:
    """Return a model's identity; hashes all weights, the tokenizer and the configuration."""
    return ModelCard(
        name=lm.name,
        revision=lm.revision,
        weight_hash=lm.weight_hash(cached=True),
        **lm.shape,
        objective=lm.family.objective,
        parameters=sum(p.numel() for p in lm.model.parameters()),
        dtype=str(lm.dtype).removeprefix("torch."),
        tokenizer_hash=lm.tokenizer_hash,
        config_hash=lm.config_hash,
        unused_tensors=lm.unused_tensors or None,
    )


def describe_task(task: Task) -> TaskCard:
    """Return a task's identity and provenance."""
    return TaskCard(
        **{**task.card(), "criteria": task.criteria, "source": without_folders(task.source)},
        content_hash=task.content_hash(),
        cases_total=len(task.cases),
    )


def describe_editor(editor: Editor[Any], source: str, prepared: Mapping[str, Any]) -> EditorCard:
    """Return an editor's description and hyper-parameters. Local paths in them lose their folders. Control
    characters in prepared values are escaped. The seconds of a training leave them, since they differ by machine.

    Args:
        editor: the editor.
        source: where its hyper-parameters come from.
        prepared: the return value of :meth:`~benchmark.editing.Editor.prepare`.
    """
    training = prepared.get("training")
    seconds = None
    if isinstance(training, Mapping) and isinstance(training.get(SECONDS), int | float):
        seconds = float(training[SECONDS])
        prepared = {**prepared, "training": {key: value for key, value in training.items() if key != SECONDS}}
    return EditorCard(
        name=editor.name,
        summary=editor.summary,
        paper=editor.paper,
        config=public_value(dataclasses.asdict(editor.config)),
        config_source=source,
        prepared=_escaped_values(public_value(prepared)),
        kind=editor.kind,
        replays=editor.replays,
        trains=editor.trains,
        needs_subject=editor.needs_subject,
        training_seconds=seconds,
    )


def _escaped_values(value: Any) -> Any:
    """Return JSON values whose texts have no control characters, which text that a model samples can contain."""
    if isinstance(value, dict):
        return {key: _escaped_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped_values(item) for item in value]
    return escaped(value) if isinstance(value, str) else value


def describe_protocol(
    lm: LanguageModel, settings: RunSettings, cases: int, gauge: DriftGauge | None = None
) -> RunProtocol:
    """Return how the numbers of a result were measured.

    Args:
        lm: the model, for its BOS policy.
        settings: the run's settings.
        cases: number of selected cases.
        gauge: the drift measurement, or None.
    """
    return RunProtocol(
        regime=settings.regime,
        batch_edits=settings.batch_edits,
        checkpoints=settings.resolved_checkpoints,
        split=settings.split,
        subset=None if settings.subset == "full" else settings.subset,
        cases=cases,
        limit=settings.limit,
        known_only=settings.known_only,
        known_by=settings.known_by if settings.known_only else None,
        bos=lm.bos_policy,
        bos_prepended=lm.bos_id is not None,
        new_tokens=settings.new_tokens,
        fluency_tokens=settings.fluency_tokens,
        drift=gauge.card() if gauge else None,
        batch_size=settings.batch_size,
        integrity=PASSAGE_SET,
        chat_template=digest(list(lm.chat))[:12] if lm.chat else None,
        probes=settings.probes or None,
    )
