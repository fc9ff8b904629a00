"""Accepts models, editors and tasks as names or as objects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core import registry
from ..core.errors import KnbenchError
from ..core.schema import Task
from ..editing import Editor, editor_class, editor_classes
from ..models.catalogue import check_model_name
from ..models.devices import resolve_device
from ..models.families import family_of
from ..models.language_model import LanguageModel
from ..models.loading import load_model


def as_language_model(
    model: Any,
    tokenizer: Any = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    **options: Any,
) -> LanguageModel:
    """Return a model as :class:`LanguageModel`.

    Args:
        model: name, folder or hub id, which is loaded; a :class:`LanguageModel`; or a model of transformers.
        tokenizer: the tokenizer of a model of transformers.
        device: a torch device for a model that is loaded.
        dtype: data type of a model that is loaded.
        **options: further arguments of :func:`load_model`.

    Raises:
        KnbenchError: the model cannot be loaded, has an unknown architecture, or has no tokenizer.
    """
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, str | Path):
        check_model_name(str(model))
        return load_model(str(model), device=resolve_device(device), dtype=dtype, **options)
    name = type(model).__name__
    if not hasattr(model, "config"):
        raise KnbenchError(f"model is a {name}; use a name, a folder, or a model of transformers with its tokenizer")
    if tokenizer is None:
        raise KnbenchError(f"model is a loaded {name}; pass its tokenizer, too: tokenizer=...")
    label = Path(getattr(model.config, "_name_or_path", "") or "").name or name
    bos = options.get("bos", "auto")
    return LanguageModel(model.eval(), tokenizer, family_of(name), name=label, bos=bos)


def as_editors(editors: str | type[Editor[Any]] | Iterable[str | type[Editor[Any]]]) -> list[type[Editor[Any]]]:
    """Return editor classes from names or classes. ``all`` gives every registered one.

    Raises:
        KnbenchError: a name is unknown, or the list of editors is empty.
    """
    if editors == "all":
        return list(editor_classes().values())
    items = [editors] if isinstance(editors, str | type) else list(editors)
    classes = [editor_class(item) if isinstance(item, str) else item for item in items]
    if not classes:
        raise KnbenchError("no editor given; name at least one, for example editors=['rome']")
    return classes


def as_tasks(
    tasks: str | Task | Iterable[str | Task],
    include_path: Iterable[str | Path] = (),
    data: dict[str, str] | None = None,
) -> list[Task]:
    """Return tasks from names or objects. ``all`` gives every registered one.

    Args:
        tasks: names as for ``--tasks``, or task objects.
        include_path: folders of task definitions.
        data: source of published data by reader.

    Raises:
        KnbenchError: a name is unknown, or the list of tasks is empty.
    """
    items = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    if not items:
        raise KnbenchError("no task given; name at least one, for example tasks=['capital']")
    folders = [Path(folder) for folder in include_path]
    found: list[Task] = []
    for item in items:
        found += [item] if isinstance(item, Task) else registry.resolve_tasks(item, folders, data)[0]
    return list({task.name: task for task in found}.values())
