"""``knbench list`` and ``knbench describe``: show registered editors, tasks, models and protocols."""

from __future__ import annotations

import dataclasses
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import click

from ..core import registry
from ..core.declarations import class_constants
from ..core.errors import DESCRIBED, unknown_name
from ..core.files import json_text
from ..core.printable import printable
from ..core.schema import EditRequest, Task
from ..models.catalogue import catalogue, check_model_name
from ..results.boards import ANY, Board, boards, find_board
from ..scoring.protocols import PROTOCOLS
from .main import load_command
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, chosen_tasks

DESCRIBE_EXAMPLES = """\b
Examples:
  knbench describe capital
  knbench describe rome --json
  knbench describe my_tasks/towns.yaml --check
"""


@dataclasses.dataclass(frozen=True)
class Listing:
    """A category of ``knbench list``.

    Attributes:
        rows: returns one row per entry, by column.
        shown: the columns of the table. JSON has all.
        more: the command that shows an entry in full, or an empty text.
    """

    rows: Callable[[], list[dict[str, Any]]]
    shown: tuple[str, ...]
    more: str = ""


LIST_EXAMPLES = """\b
Examples:
  knbench list editors
  knbench list editors memory         # only the rows that contain the word
  knbench list tasks fact capital
  knbench list models --json
"""


@click.command("list", epilog=LIST_EXAMPLES)
@click.argument("category", metavar="[editors|guards|tasks|models|families|boards|protocols]")
@click.argument("words", nargs=-1, metavar="[WORD]...")
@INCLUDE_OPTION
@JSON_FLAG
def list_command(category: str, words: Sequence[str], include_path: Sequence[Path], as_json: bool) -> None:
    """List editors, guards, tasks, models, model families, boards or protocols.

    With WORDs, only rows that contain each of them in any column are listed, in upper or lower case. Names the plug-ins
    that cannot be used, also those of commands and of readers of published data.
    """
    describe = "knbench describe NAME"
    listings = {
        "editors": Listing(_list_editors, ("name", "kind", "summary"), f"{describe}, knbench check-editor NAME"),
        "guards": Listing(_list_guards, ("name", "summary"), f"{describe}, knbench run --editors EDITOR+NAME"),
        "tasks": Listing(lambda: _list_tasks(include_path), ("name", "version", "kind", "title", "cases"), describe),
        "models": Listing(_list_models, ("name", "source", "licence"), describe),
        "families": Listing(_list_families, ("architecture", "kind")),
        "boards": Listing(_list_boards, ("name", "models", "tables", "title"), describe),
        "protocols": Listing(
            _list_protocols, ("protocol", "number", "formula"), "knbench score FOLDER --protocol NAME"
        ),
    }
    if category not in listings:
        raise unknown_name("listing", category, listings)
    # Built-in ones can be used, and their import takes seconds.
    registry.load_all(registry.COMMANDS, lambda point: None if registry.is_built_in(point) else load_command(point))
    registry.load_all(
        registry.READERS, lambda point: None if registry.is_built_in(point) else registry.load_reader(point)
    )
    listing = listings[category]
    every = listing.rows()
    rows = [row for row in every if _contains(row, words)]
    if as_json:
        click.echo(json_text(rows), nl=False)
        return
    from .terminal import print_listing

    count = f"{len(rows)} of {len(every)}" if words else str(len(rows))
    print_listing(f"{category} ({count})", [{name: row[name] for name in listing.shown} for row in rows])
    if listing.more and rows:
        click.echo(f"More: {listing.more}")


def _contains(row: Mapping[str, Any], words: Sequence[str]) -> bool:
    """Return whether each word is contained in a value of a row, in upper or lower case.

    >>> _contains({"name": "rome", "paper": "Meng et al."}, ["meng", "ROM"]), _contains({"name": "rome"}, ["memit"])
    (True, False)
    """
    text = "\n".join(map(str, row.values())).casefold()
    return all(word.casefold() in text for word in words)


def _list_editors() -> list[dict[str, Any]]:
    names = ("name", "kind", "summary", "paper")

    def row(point: EntryPoint) -> dict[str, Any]:
        found = class_constants(point, names) or {}
        if not {"name", "summary"} <= found.keys():
            from ..editing import editor_class

            cls = editor_class(point.name)
            found = {name: getattr(cls, name) for name in names}
        return {name: {"kind": "weights", "paper": "", **found}[name] for name in names}

    return list(registry.load_all(registry.EDITORS, row).values())


def _list_guards() -> list[dict[str, Any]]:
    names = ("name", "summary", "paper")

    def row(point: EntryPoint) -> dict[str, Any]:
        found = class_constants(point, names) or {}
        if not {"name", "summary"} <= found.keys():
            from ..editing import guard_class

            cls = guard_class(point.name)
            found = {name: getattr(cls, name) for name in names}
        return {name: {"paper": "", **found}[name] for name in names}

    return list(registry.load_all(registry.GUARDS, row).values())


def _list_tasks(include: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "version": t.version, "kind": t.kind, "title": t.title, "cases": len(t.cases)}
        for t in registry.tasks(include).values()
    ]


def _list_models() -> list[dict[str, Any]]:
    return [{"name": m.name, "title": m.title, "source": m.origin, "licence": m.licence} for m in catalogue().values()]


def _list_families() -> list[dict[str, Any]]:
    from ..models.families import known_families

    return [
        {"architecture": name, "kind": family.objective, **dataclasses.asdict(family)}
        for name, family in sorted(known_families().items())
    ]


def _list_boards() -> list[dict[str, Any]]:
    return [
        {
            "name": board.label,
            "models": ", ".join(board.model_names) or "any",
            "tables": ", ".join(table.name for table in board.tables),
            "title": board.title,
        }
        for board in boards().values()
    ]


def _list_protocols() -> list[dict[str, Any]]:
    return [
        {"protocol": p.name, "number": c.name, "criterion": c.criterion, "measure": c.measure, "formula": c.formula}
        for p in PROTOCOLS.values()
        for c in p.columns
    ]


@click.command("describe", epilog=DESCRIBE_EXAMPLES)
@click.argument("name")
@click.option("--check", is_flag=True, help="Print the rows of a task whose numbers are hard to interpret.")
@click.option("--model", help="Model whose knowledge of the task, before any edit, is also shown.")
@INCLUDE_OPTION
@DATA_OPTION
@JSON_FLAG
def describe_command(
    name: str, check: bool, model: str | None, include_path: Sequence[Path], data: Sequence[str], as_json: bool
) -> None:
    """Describe a task, an editor, a guard, a model or a board.

    A task is shown with its source, licence and examples; an editor or a guard with its hyper-parameters and published
    values; a model with its source and licence. NAME may be the YAML file of a task.

    With --check, each finding about a task's data is one line with row numbers: subjects with several answers, targets
    of different length, prompts that contain an answer, subjects within targets.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        name, include_path = path.stem, [*include_path, path.parent]
    tasks, editors = registry.tasks(include_path), registry.registered(registry.EDITORS)
    if name.partition(":")[0] in registry.registered(registry.READERS):
        tasks[name] = chosen_tasks(name, include_path, data)[0]
    if check:
        _print_findings(name, tasks, as_json=as_json)
        return
    if name in tasks:
        description = _describe_task(tasks[name])
        if model is not None:
            check_model_name(model)
            from .known import measure_knowledge

            (row,) = measure_knowledge(model, [tasks[name]])
            description[f"known to {model}"] = {
                k: v for k, v in row.items() if k not in ("task", "kind") and v is not None
            }
    elif name in editors:
        description = _describe_editor(name)
    elif name in registry.registered(registry.GUARDS):
        description = _describe_guard(name)
    elif name in {key for board in boards().values() for key in (board.name, board.key, board.label)}:
        description = _describe_board(find_board(name))
    elif name in catalogue():
        entry = catalogue()[name]
        description = {"name": name, "title": entry.title, "source": dict(entry.source), "licence": entry.licence}
        description["note"] = entry.note
    else:
        guards = registry.registered(registry.GUARDS)
        names = [*tasks, *editors, *guards, *catalogue(), *(board.name for board in boards().values())]
        raise unknown_name(DESCRIBED, name, names)
    if as_json:
        click.echo(json_text(description), nl=False)
        return
    from .terminal import print_card

    if "hyper_parameters" in description:
        rows = description["hyper_parameters"]
        description["hyper_parameters"] = [{**row, "default": _as_argument(row["default"])} for row in rows]
    print_card(description)


def _print_findings(name: str, tasks: Mapping[str, Task], *, as_json: bool) -> None:
    """Print the findings about the data of a task.

    Raises:
        KnbenchError: the task is unknown.
    """
    if name not in tasks:
        raise unknown_name("task", name, tasks)
    task = tasks[name]
    if as_json:
        click.echo(json_text(list(task.warnings)), nl=False)
        return
    for line in task.warnings:
        click.echo(printable(line))
    count = len(task.warnings)
    click.echo(f"{name}: {count} finding{'' if count == 1 else 's'} in {len(task.cases)} cases")


def _describe_task(task: Task) -> dict[str, Any]:
    """Return a task's provenance, its number of probes per criterion, and its first case as an example."""
    cases = task.cases
    probe_counts = Counter(probe.criterion for case in cases for probe in case.probes)
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
        "probes": dict(probe_counts),
        "pairs": len(task.pairs) or "",
        "example_edit": _edit_text(first.request) if first else "none: no pair can be keyed on a cue",
        "example_probes": examples,
    }


def _describe_board(board: Board) -> dict[str, Any]:
    """Return what a board is for, its protocol, and the cases of each of its tables."""
    models = board.model_names or (ANY,)
    cases = [
        {
            "table": table.words,
            "model": model,
            "task": f"{task} v{board.tasks[task].version}",
            "cases": board.questions_of(table, model, task).cases,
        }
        for table in board.tables
        for model in models
        for task in table.tasks
    ]
    return {
        "name": board.name,
        "version": board.version,
        "title": board.title,
        "purpose": board.purpose,
        "models": ", ".join(board.model_names) or "any, each with a table of its own",
        "cases_of": f"{board.split}, known only (by {board.known_by})" if board.known_only else board.split,
        "seed": board.seed,
        "dtype": board.dtype,
        "benchmark": board.benchmark,
        "run": f"knbench run --board {board.name} --editors NAME",
        "cases": cases,
    }


def _edit_text(request: EditRequest) -> str:
    true = f" (not {request.target_true})" if request.target_true else ""
    return f"{request.text} -> {request.target_new}{true}"


def _describe_editor(name: str) -> dict[str, Any]:
    """Return an editor's description, its hyper-parameters and their published values."""
    from ..editing import editor_class

    cls = editor_class(name)
    return {
        "name": name,
        "kind": cls.kind,
        "summary": cls.summary,
        "paper": cls.paper,
        "hyper_parameters": _hyper_parameters(cls.Config),
        "published": [
            {"model": p.model, "shape": dict(p.shape), "source": p.source, "values": dict(p.values)}
            for p in cls.published
        ],
    }


def _describe_guard(name: str) -> dict[str, Any]:
    """Return a guard's description and its hyper-parameters, named as in ``--editor-args``."""
    from ..editing import guard_class

    cls, before = guard_class(name), name.replace("-", "_")
    return {
        "name": name,
        "kind": "guard",
        "summary": cls.summary,
        "paper": cls.paper,
        "hyper_parameters": [{**row, "name": f"{before}_{row['name']}"} for row in _hyper_parameters(cls.Config)],
    }


def _hyper_parameters(config: type) -> list[dict[str, Any]]:
    """Return name, type, default and help of each field of a configuration."""
    hints = typing.get_type_hints(config)
    return [
        {
            "name": field.name,
            "type": _type_text(hints[field.name]),
            "default": _default(field),
            "help": field.metadata.get("help", ""),
        }
        for field in dataclasses.fields(config)
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "set per model" if field.default is dataclasses.MISSING else field.default


def _type_text(hint: Any) -> str:
    """Return a type as text, a literal type as its values.

    >>> _type_text(int), _type_text(tuple[str, ...] | None), _type_text(Literal["left", "right"])
    ('int', 'tuple[str, ...] | None', 'left | right')
    """
    if typing.get_origin(hint) is Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if type(hint) is type else str(hint)


def _as_argument(value: Any) -> Any:
    """Return a default as it is written in ``--editor-args``: ``none`` for None, ``true`` for True."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else value
