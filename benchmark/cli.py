"""The command line: ``knbench list | describe | run | score | site ...``.

Heavy libraries are imported inside the commands, so that help and mistakes answer at once.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from . import __version__, registry
from .errors import InterruptedRun, KnbenchError, unknown_name
from .files import json_text
from .models import DEFAULT_MODEL, DTYPES, catalogue, check_model_name
from .split import SPLITS, Split
from .types import Task

EXAMPLES = """
\b
Examples:
  knbench list editors
  knbench describe capital
  knbench run --editors none,ft,rome --tasks capital --limit 10 --output runs/first
  knbench score runs/first
  knbench site build runs/first --output site
"""

JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of a table.")

TASKS_HELP = "Tasks, comma-separated, or 'all'; of published data as READER:SELECTION, such as pararel:P36."
INCLUDE_OPTION = click.option(
    "--include-path",
    "--include_path",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder with task definitions of your own; may be repeated.",
)
DATA_OPTION = click.option(
    "--data", multiple=True, metavar="READER=SOURCE", help="Where published data lies: a hub id, file or folder."
)


class Commands(click.Group):
    """Commands of the harness, and those that other packages register in ``knbench.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return [*super().list_commands(ctx), *registry.registered(registry.COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it when it comes from a plug-in."""
        own = super().get_command(ctx, cmd_name)
        points = registry.registered(registry.COMMANDS)
        if own is None and cmd_name in points:
            command: click.Command = registry.load(points[cmd_name])
            return command
        return own

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for a misspelt one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="knbench")
def knbench() -> None:
    """Judge model-editing methods by more than their own prompt.

    KNBench runs editing methods over facts and linguistic phenomena on a language model, measures every edit before
    and after, and builds a leaderboard from what was measured.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit status 2."""
    try:
        knbench.main(args=None if argv is None else list(argv), prog_name="knbench", standalone_mode=False)
    except click.exceptions.Exit as request:
        sys.exit(request.exit_code)
    except click.ClickException as error:
        where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _fail(error.format_message().rstrip(".") + where)
    except InterruptedRun as error:
        _fail(str(error), status=130)
    except KnbenchError as error:
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", status=130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        reason = "no space left on the disk" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        _fail(f"{error.filename or 'file'}: {reason}")


def _fail(message: str, status: int = 2) -> None:
    click.echo(f"knbench: {' '.join(message.split())}", err=True)
    sys.exit(status)


# --- list and describe -------------------------------------------------------------------------------------------


@knbench.command("list", epilog="\b\nExamples:\n  knbench list editors\n  knbench list tasks --json\n")
@click.argument("what", metavar="[editors|tasks|models]")
@INCLUDE_OPTION
@JSON_FLAG
def list_command(what: str, include_path: Sequence[Path], as_json: bool) -> None:
    """List what is registered: editors, tasks or models."""
    listing: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "editors": _list_editors,
        "tasks": lambda: _list_tasks(include_path),
        "models": _list_models,
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


@knbench.command(epilog="\b\nExamples:\n  knbench describe capital\n  knbench describe rome --json\n")
@click.argument("name")
@click.option("--model", help="Also tell what this model knows of the task before any edit.")
@INCLUDE_OPTION
@DATA_OPTION
@JSON_FLAG
def describe(name: str, model: str | None, include_path: Sequence[Path], data: Sequence[str], as_json: bool) -> None:
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


@knbench.command(epilog="\b\nExamples:\n  knbench known --tasks all\n  knbench known --model gpt2 --tasks capital\n")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows per probing batch.")
@INCLUDE_OPTION
@DATA_OPTION
@JSON_FLAG
def known(
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


# --- run ---------------------------------------------------------------------------------------------------------

RUN_HELP = """
\b
Examples:
  knbench run --editors rome --tasks capital --limit 3
  knbench run --editors all --tasks all --known-only --output runs/all
  knbench run --model ./my-model --editors rome --editor-args rome.layer=7 --tasks capital

Starting the same command again continues where it stopped.
"""


@knbench.command(epilog=RUN_HELP)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--editors", default="none,rome", show_default=True, help="Editors, comma-separated, or 'all'.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@INCLUDE_OPTION
@DATA_OPTION
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Which cases: methods may be tuned on those of 'tune', and are judged on those of 'test'.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases a task; the result says so.")
@click.option("--known-only", is_flag=True, help="Judge only cases and neighbours that the unedited model gets right.")
@click.option(
    "--known-by",
    type=click.Choice(["success", "exact", "generated"]),
    default="success",
    show_default=True,
    help="What counts as known: preferred to the new answer, each token first, or said freely.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every random choice.")
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--revision", help="Commit or tag of a hub model.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows per probing batch.")
@click.option(
    "--bos",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Whether texts begin with BOS; auto does as the tokenizer does.",
)
@click.option(
    "--editor-args",
    multiple=True,
    metavar="EDITOR.FIELD=VALUE",
    help="Set a hyper-parameter; may be repeated.",
)
@click.option("--output", "--output_path", type=click.Path(path_type=Path), help="Run folder. [default: runs/MODEL]")
@JSON_FLAG
def run(
    model: str,
    editors: str,
    tasks: str,
    include_path: Sequence[Path],
    data: Sequence[str],
    split: Split,
    limit: int | None,
    known_only: bool,
    known_by: str,
    seed: int,
    device: str,
    dtype: str,
    revision: str | None,
    batch_size: int,
    bos: Any,
    editor_args: Sequence[str],
    output: Path | None,
    as_json: bool,
) -> None:
    """Run editors over tasks: measure, edit, measure again, restore; write records and results."""
    check_model_name(model)
    editor_names = _names(editors, registry.registered(registry.EDITORS), "editor")
    chosen = chosen_tasks(tasks, include_path, data)
    classes = [registry.editor_class(name) for name in editor_names]
    args = read_editor_args(editor_args, editor_names)
    from .editing import parse_overrides

    for cls in classes:
        parse_overrides(cls, args.get(cls.name, {}))
    check_device(device)

    from .models import load_model
    from .runner import RunSettings
    from .runner import run as run_benchmark
    from .terminal import ProgressReporter, print_results

    lm = load_model(model, device=device, dtype=dtype, revision=revision, bos=bos)
    if editors.strip() == "all" and not lm.causal:  # an editor asked for by its name is refused instead
        left = [cls.name for cls in classes if cls.causal_only]
        classes = [cls for cls in classes if not cls.causal_only]
        click.echo(f"knbench: left out, for they need a causal model: {', '.join(left)}", err=True)
    folder = output or Path("runs") / lm.name.replace("/", "--")
    settings = RunSettings(
        split=split,
        limit=limit,
        seed=seed,
        known_only=known_only,
        known_by=known_by,
        batch_size=batch_size,
        editor_args=args,
    )
    try:
        with ProgressReporter() as reporter:
            folders = run_benchmark(lm, classes, chosen, folder, settings, reporter)
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; what was measured is kept: start the same command to continue") from None
    from .results import load_result

    results = [load_result(path / "result.json") for path in folders]
    if as_json:
        click.echo(json_text(results), nl=False)
        return
    print_results(results)
    click.echo(f"Results: {folder}   Site: knbench site build {folder} --output site")


def chosen_tasks(text: str, include: Sequence[Path], data: Sequence[str]) -> list[Task]:
    """Return the named tasks, telling on stderr what of published data could not be read."""
    sources = dict(item.partition("=")[::2] for item in data)
    readers = registry.registered(registry.READERS)
    for reader, source in sources.items():
        if reader not in readers:
            raise unknown_name("reader of published data", reader, readers)
        if not source:
            raise KnbenchError(f"--data '{reader}': expected READER=SOURCE, such as pararel=data_all_allbags.json")
    tasks, notes = registry.resolve_tasks(text, include, sources)
    for note in notes:
        click.echo(f"knbench: {note}", err=True)
    return tasks


def _names(text: str, known: Mapping[str, Any], what: str) -> list[str]:
    """Split a comma-separated list and check every name.

    Raises:
        KnbenchError: a name is not known.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if names == ["all"]:
        return list(known)
    for name in names:
        if name not in known:
            raise unknown_name(what, name, known)
    if not names:
        raise KnbenchError(f"no {what} named; known: {', '.join(known)}")
    return names


def read_editor_args(items: Sequence[str], editors: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read ``rome.layer=7`` and comma-separated lists of such.

    Raises:
        KnbenchError: not of that form, or of an editor that is not run.
    """
    found: dict[str, dict[str, str]] = {}
    for item in items:
        for part in re.split(r",(?=[\w-]+\.\w+=)", item):
            match = re.fullmatch(r"([\w-]+)\.(\w+)=(.*)", part.strip(), flags=re.DOTALL)
            if match is None:
                raise KnbenchError(f"--editor-args '{part}': expected EDITOR.FIELD=VALUE, such as rome.layer=7")
            editor, name, value = match.groups()
            if editor not in editors:
                raise KnbenchError(f"--editor-args '{part}': editor '{editor}' is not run; --editors has {editors}")
            found.setdefault(editor, {})[name] = value
    return found


def check_device(device: str) -> None:
    """Make sure of a torch device before anything long begins.

    Raises:
        KnbenchError: it is not there.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise KnbenchError(f"device '{device}' is not available: {str(error).splitlines()[0]}") from None


# --- score -------------------------------------------------------------------------------------------------------


@knbench.command(epilog="\b\nExamples:\n  knbench score runs/first\n  knbench score runs/first --write --json\n")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Replace a result that differs from its records.")
@JSON_FLAG
def score(folders: Sequence[Path], write: bool, as_json: bool) -> None:
    """Recompute results from records, without a model, and compare them with the stored ones.

    FOLDERS are run folders, at any depth. A stored result that its records do not give is an error, unless --write
    replaces it.
    """
    from .results import MANIFEST, RESULT, load_result, write_result
    from .run_folder import rescore

    found = [path.parent for folder in folders for path in sorted(folder.rglob(MANIFEST))]
    if not found:
        raise KnbenchError(
            f"no {MANIFEST} below {', '.join(map(str, folders))}; make one with: knbench run --output ..."
        )
    results = []
    for folder in found:
        result = rescore(folder)
        path = folder / RESULT
        if write or not path.exists():
            write_result(folder, result)
        elif load_result(path) != result:
            keys = [key for key, value in load_result(path).items() if value != result.get(key)]
            raise KnbenchError(
                f"{path}: {', '.join(keys)} not what the records give; run: knbench score {folder} --write"
            )
        results.append(result)
    if as_json:
        click.echo(json_text(results), nl=False)
        return
    from .terminal import print_results

    print_results(results)
