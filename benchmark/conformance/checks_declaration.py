"""Checks of an editor's declaration: name, summary, Config and supported model families."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

from ..core import registry
from ..core.errors import KnbenchError
from ..editing import Editor, EditorKind, build_editor
from ..models.untrained import untrained
from ..running.provenance import describe_editor
from .fixtures import LAYOUTS, ClassFixture


def declared(fixture: ClassFixture) -> Iterator[str]:
    """The class declares a name, a one-line summary, a kind, a positive joint_batch_size and a frozen Config.

    The name equals that of the entry point and consists of letters, digits, '-' and '_', because it becomes a folder
    name and a command-line argument. Each field of Config has a default or a value from generic(), and its values are
    JSON-serialisable. The config is written into every result and must not change afterwards.
    """
    cls = fixture.cls
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+(\+[\w-]+)*", name):
        yield f"name is {name!r}; use only letters, digits, '-' and '_'"
    registered = fixture.name or next((n for n, c in _registered_classes(cls) if c is cls), name)
    if registered != name:
        yield f"name is {name!r}, but the entry point is called '{registered}'"
    summary = getattr(cls, "summary", None)
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary.strip():
        yield f"summary is {summary!r}; write one line of text"
    if not isinstance(cls.joint_batch_size, int) or cls.joint_batch_size < 1:
        yield f"joint_batch_size is {cls.joint_batch_size!r}; use an integer of at least 1"
    for flag in ("causal_only", "needs_subject", "needs_rival", "replays", "trains"):
        if not isinstance(getattr(cls, flag), bool):
            yield f"{flag} is {getattr(cls, flag)!r}; use True or False"
    if cls.kind not in typing.get_args(EditorKind):
        yield f"kind is {cls.kind!r}; use {', '.join(typing.get_args(EditorKind))}"
    config = getattr(cls, "Config", None)
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
        yield "Config is not a dataclass"
        return
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield "Config is not frozen; use @dataclass(frozen=True)"
    lm = untrained(LAYOUTS[0])
    generic = cls.generic(lm)
    fields = dataclasses.fields(config)
    missing = [
        f.name
        for f in fields
        if f.init and f.default is f.default_factory is dataclasses.MISSING and f.name not in generic
    ]
    if missing:
        yield f"Config fields without a default or a value from generic(): {', '.join(missing)}"
    sources = [(generic, "generic()"), *((p.values, f"published '{p.source}'") for p in cls.published)]
    for values, source in sources:
        unknown = sorted(set(values) - {f.name for f in fields})
        if unknown:
            yield f"{source} sets {', '.join(unknown)}, which Config does not have"
            return
    if missing:
        return
    editor, config_source = build_editor(cls, lm, fixture.overrides)
    try:
        described = describe_editor(editor, config_source, {}).config
        if json.loads(json.dumps(described, allow_nan=False)) != described:
            yield "the values of the config change when they are written as JSON and read again"
    except (TypeError, ValueError) as error:
        yield f"the values of the config cannot be written as JSON: {error}"


def _registered_classes(cls: type[Editor[Any]]) -> Iterator[tuple[str, object]]:
    """Yield the names and classes of registered editors that are defined in the module of ``cls``."""
    for name, point in registry.registered(registry.EDITORS).items():
        if point.value.partition(":")[0] == cls.__module__:
            yield name, registry.load(point)


def both_layouts(fixture: ClassFixture) -> Iterator[str]:
    """edit() returns an Edit for GPT-2 and for Llama, which store W in different layouts.

    GPT-2's Conv1D stores W as (m, d), Llama's Linear as (d, m). Use lm.as_stored and lm.mlp_weight_name instead of
    shapes and module names; the editor then supports every model family. The checks per model run only on the models
    that can be edited.
    """
    for model in fixture.models:
        if model.kind in LAYOUTS and model.setup_error:
            yield f"{model.kind}: {model.setup_error}"


def masked_models(fixture: ClassFixture) -> Iterator[str]:
    """The editor edits masked models, for example BERT, or declares causal_only = True.

    knbench then refuses masked models with an error message before the run starts. Without the declaration the editor
    crashes during the run.
    """
    for model in fixture.models:
        if model.kind not in LAYOUTS and model.setup_error:
            yield f"{model.kind}: {model.setup_error}; set causal_only = True if the editor cannot edit masked models"
    if fixture.cls.causal_only:
        try:
            build_editor(fixture.cls, untrained("bert"))
        except KnbenchError as error:
            if f"'{fixture.cls.name}'" not in str(error):
                yield f"the error for a masked model does not contain the editor's name: {error}"
        else:
            yield "causal_only is True, but a masked model is accepted"
