"""``knbench list``, ``describe`` and ``known``: what there is, and what a model knows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from . import registry
from .errors import unknown_name
from .files import json_text
from .models import DEFAULT_MODEL, catalogue, check_model_name
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, TASKS_HELP, check_device, chosen_tasks
from .protocols import PROTOCOLS


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
        {"name": t.name, "version": t.version, "kind": t.kind, "title": t.title, "cases": len(t.cases())}
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
            (row,) = _knowledge(model, [tasks[name]], "cpu", 64)
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
    cases = task.cases()
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
        "pairs": len(task.pairs()) or "",
        "example_edit": f"{first.request.text} -> {first.request.target_new} (not {first.request.target_true})"
        if first
        else "none: no pair can be keyed on a cue",
        "example_probes": examples,
    }


def _describe_editor(name: str) -> dict[str, Any]:
    import dataclasses

    cls = registry.editor_class(name)
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


@click.command(
    "known", epilog="\b\nExamples:\n  knbench known --tasks all\n  knbench known --model gpt2 --tasks capital\n"
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows per probing batch.")
@INCLUDE_OPTION
@DATA_OPTION
@JSON_FLAG
def known_command(
    model: str,
    tasks: str,
    device: str,
    batch_size: int,
    include_path: Sequence[Path],
    data: Sequence[str],
    as_json: bool,
) -> None:
    """Tell what a model knows of tasks before any edit.

    Shares of cases whose true answer is preferred to the new one (success), is most probable token by token (exact), is
    said freely (generated), or ranks first among all of the task's answers; and of minimal pairs whose grammatical
    sentence is the more probable. Measured once per model and task, then kept in the cache.
    """
    check_model_name(model)
    rows = _knowledge(model, chosen_tasks(tasks, include_path, data), device, batch_size)
    if as_json:
        click.echo(json_text(rows), nl=False)
        return
    from .terminal import print_table

    cells = [[f"{v:.3f}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    print_table(f"known to {model} before any edit", list(rows[0]), cells)


def _knowledge(model: str, tasks: Sequence[Any], device: str, batch_size: int) -> list[dict[str, Any]]:
    check_device(device)
    from .known import Store, knowledge
    from .masked_probing import make_prober
    from .models import load_model
    from .terminal import ProgressReporter

    lm = load_model(model, device=device)
    with ProgressReporter() as reporter:
        reporter.begin(len(tasks))
        store = Store.of(make_prober(lm, batch_size=batch_size))
        rows = []
        for task in tasks:
            reporter.doing(task.name)
            rows.append(knowledge(store, task))
            reporter.advance()
    return rows
