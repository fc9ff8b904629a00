"""``knbench list`` and ``describe``: what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..core import registry
from ..core.errors import unknown_name
from ..core.files import json_text
from ..models.loading import catalogue, check_model_name
from ..scoring.protocols import PROTOCOLS
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, chosen_tasks


@click.command("list", epilog="\b\nExamples:\n  knbench list editors\n  knbench list tasks --json\n")
@click.argument("what", metavar="[editors|tasks|models|protocols]")
@INCLUDE_OPTION
@JSON_FLAG
def list_command(what: str, include_path: Sequence[Path], as_json: bool) -> None:
    """List what there is: editors, tasks, models or protocols."""
    listing: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "editors": _list_editors,
        "tasks": lambda: _list_tasks(include_path),
        "models": _list_models,
        "protocols": _list_protocols,
    }
    if what not in listing:
        raise unknown_name("listing", what, listing)
    rows = listing[what]()
    if as_json:
        click.echo(json_text(rows), nl=False)
        return
    from .terminal import print_table

    print_table(f"{what} ({len(rows)})", list(rows[0]) if rows else ["name"], [list(row.values()) for row in rows])


def _list_editors() -> list[dict[str, Any]]:
    classes = {name: registry.load(point) for name, point in registry.registered(registry.EDITORS).items()}
    return [{"name": name, "summary": cls.summary, "paper": cls.paper} for name, cls in classes.items()]


def _list_tasks(include: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "version": t.version, "kind": t.kind, "title": t.title, "cases": len(t.cases)}
        for t in registry.tasks(include).values()
    ]


def _list_models() -> list[dict[str, Any]]:
    return [{"name": m.name, "title": m.title, "source": m.origin, "licence": m.licence} for m in catalogue().values()]


def _list_protocols() -> list[dict[str, Any]]:
    return [
        {"protocol": p.name, "number": c.name, "criterion": c.criterion, "measure": c.measure, "formula": c.formula}
        for p in PROTOCOLS.values()
        for c in p.columns
    ]


@click.command("describe", epilog="\b\nExamples:\n  knbench describe capital\n  knbench describe rome --json\n")
@click.argument("name")
@click.option("--model", help="Also tell what this model knows of the task before any edit.")
@INCLUDE_OPTION
@DATA_OPTION
@JSON_FLAG
def describe_command(
    name: str, model: str | None, include_path: Sequence[Path], data: Sequence[str], as_json: bool
) -> None:
    """Describe a task, an editor or a model: what it is, its source and licence, examples."""
    tasks, editors = registry.tasks(include_path), registry.registered(registry.EDITORS)
    if name.partition(":")[0] in registry.registered(registry.READERS):
        tasks[name] = chosen_tasks(name, include_path, data)[0]
    if name in tasks:
        card = _describe_task(tasks[name])
        if model is not None:
            check_model_name(model)
            from .known import knowledge_of

            (row,) = knowledge_of(model, [tasks[name]])
            card[f"known to {model}"] = {k: v for k, v in row.items() if k not in ("task", "kind") and v is not None}
    elif name in editors:
        card = _describe_editor(name)
    elif name in catalogue():
        entry = catalogue()[name]
        card = {"name": name, "title": entry.title, "source": dict(entry.source), "licence": entry.licence}
        card["note"] = entry.note
    else:
        raise unknown_name("task, editor or model", name, [*tasks, *editors, *catalogue()])
    if as_json:
        click.echo(json_text(card), nl=False)
        return
    from .terminal import print_card

    print_card(card)


def _describe_task(task: Any) -> dict[str, Any]:
    cases = task.cases
    counts: dict[str, int] = {}
    for case in cases:
        for probe in case.probes:
            counts[probe.criterion] = counts.get(probe.criterion, 0) + 1
    first = cases[0] if cases else None
    examples = [
        {
            "criterion": probe.criterion,
            "prompt": probe.prompt or "(sentences)",
            "wanted": f"no longer {probe.target}" if probe.expect == "gone" else probe.target,
            "rival": probe.rival,
        }
        for probe in (first.probes if first else ())
    ]
    return {
        **task.card(),
        "content_hash": task.content_hash(),
        "cases": len(cases),
        "probes": counts,
        "pairs": len(task.pairs) or "",
        "example_edit": f"{first.request.text} -> {first.request.target_new} (not {first.request.target_true})"
        if first
        else "none: no pair can be keyed on a cue",
        "example_probes": examples,
    }


def _describe_editor(name: str) -> dict[str, Any]:
    import dataclasses

    from .. import editing

    cls = editing.editor_class(name)
    fields = {
        f.name: "set per model" if f.default is dataclasses.MISSING else f.default
        for f in dataclasses.fields(cls.Config)
    }
    return {
        "name": name,
        "summary": cls.summary,
        "paper": cls.paper,
        "hyper_parameters": fields,
        "published": [{"source": p.source, "model": dict(p.shape), **p.values} for p in cls.published],
    }
