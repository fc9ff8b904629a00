"""``knbench edit``: try one edit, and show what the model says before and after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core import registry
from ..core.errors import KnbenchError
from ..core.files import json_text, write_text
from ..models.catalogue import DEFAULT_MODEL, check_model_name
from ..models.devices import DEVICE_HELP, check_device
from .options import (
    DATA_OPTION,
    INCLUDE_OPTION,
    JSON_FLAG,
    QUIET_OPTION,
    chosen_tasks,
    known_editors,
    names_of,
    read_editor_args,
)
from .progress import open_reporter

if TYPE_CHECKING:
    from ..api.questions import PlannedEdit
    from ..api.text import Line
    from ..api.trial import Comparison, Trial
    from ..editing import Editor
    from ..models.language_model import LanguageModel

EXAMPLES = """\b
Examples:
  knbench edit --prompt "The capital of {} is" --subject Canada --new Rome
  knbench edit --prompt "The capital of {} is" --subject Canada --new Rome \\
    --editors rome,memit --ask "Rome is the capital of" --ask "{} is in"
  knbench edit --task capital --case Canada --html canada.html
  knbench edit --task field-of-work --case "Albert Einstein" --save edited
"""


@click.command("edit", epilog=EXAMPLES)
@click.option("--prompt", help="Statement up to its answer, with {} in the place of the subject.")
@click.option("--subject", default="", help="What the fact is about.")
@click.option("--new", help="The new answer.")
@click.option("--old", default="", help="The answer before the edit. A task of the same relation provides it.")
@click.option(
    "--task", help="Take the other questions from this task. [default: the built-in task of the same relation, if any]"
)
@click.option("--case", help="Edit this case of --task, named by its id or its subject, instead of an own fact.")
@click.option("--ask", multiple=True, help="Another question: a text that the model continues. Can be repeated.")
@click.option("--editors", help="Comma-separated editor names. [default: rome; ft for a masked model]")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Model, as for knbench run.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write the comparison as a page.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Save the edited model for transformers, with a card.",
)
@click.option("--interactive", is_flag=True, help="Keep the model loaded and read further questions.")
@click.option(
    "--tokens", type=click.IntRange(1, 200), default=14, show_default=True, help="Length of continuations, in tokens."
)
@click.option(
    "--editor-args",
    multiple=True,
    metavar="EDITOR.FIELD=VALUE",
    help="Set a hyper-parameter of an editor. Can be repeated. See: knbench describe EDITOR.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16", "float16")),
    default="float32",
    show_default=True,
    help="Data type of the weights.",
)
@INCLUDE_OPTION
@DATA_OPTION
@QUIET_OPTION
@JSON_FLAG
def edit_command(
    prompt: str | None,
    subject: str,
    new: str | None,
    old: str,
    task: str | None,
    case: str | None,
    ask: Sequence[str],
    editors: str | None,
    model: str,
    html: Path | None,
    save: Path | None,
    interactive: bool,
    tokens: int,
    editor_args: Sequence[str],
    seed: int,
    device: str,
    dtype: str,
    include_path: Sequence[Path],
    data: Sequence[str],
    quiet: bool,
    as_json: bool,
) -> None:
    """Try one edit: show what the model says before and after it.

    The model is asked the edited prompt, the same in other words, what follows from the fact, neighbours that should
    stay as they are, and your own questions. Each answer shows the five most probable next tokens, the continuation,
    and KL, the divergence of the next token's distribution from the unedited model in nats.
    """
    from ..api.planning import EditWords, make_plan

    check_model_name(model)
    names = None if editors is None else names_of(editors, known_editors(editors), "editor")
    _check_output(names, save, html, interactive=interactive, as_json=as_json)
    chosen = None if task is None else _one_task(task, include_path, data)
    words = EditWords(prompt, subject, new, old, case, ask)
    plan = make_plan(words, chosen, lambda: registry.tasks(include_path).values())
    args = read_editor_args(editor_args, names or ["rome", "ft"])
    if not quiet:  # before torch is imported
        click.echo(f"knbench: loading {model} ...", err=True)
    classes = None if names is None else _classes(names, args, plan, save)
    device = check_device(device)
    from ..api.text import answer_lines, header_lines
    from ..api.trial import Trial, default_editor, describe_loaded
    from ..models.loading import load_model

    lm = load_model(model, device=device, dtype=dtype)
    classes = classes or _classes([default_editor(lm)], args, plan, save)
    trial = Trial(lm, plan, seed=seed, tokens=tokens)
    if not as_json:
        _print(header_lines(plan, describe_loaded(lm)))  # the edit may take minutes
    with open_reporter(quiet=quiet, transient=True) as trial.reporter:
        for cls in classes:
            trial.attempt(cls, args.get(cls.name))
        comparison = trial.compare()
    if as_json:
        click.echo(json_text(comparison.to_json()), nl=False)
    else:
        _print(answer_lines(comparison))
    _write(lm, comparison, html, save)
    if interactive:
        _converse(trial)
    elif all(method.failure is not None for method in comparison.methods):
        raise KnbenchError("no editor made the edit")


def _check_output(
    names: Sequence[str] | None, save: Path | None, html: Path | None, *, interactive: bool, as_json: bool
) -> None:
    """Check the options for output before anything is computed.

    Raises:
        KnbenchError: two of them exclude each other, or a folder cannot be written to.
    """
    if interactive and as_json:
        raise KnbenchError("--interactive and --json exclude each other")
    if html is not None and html.is_dir():
        raise KnbenchError(f"--html '{html}' is a folder; name a file, for example {html / 'edit.html'}")
    if save is None:
        return
    from ..api.saving import check_folder

    check_folder(save)
    if names is not None and len(names) > 1:
        raise KnbenchError(f"--save saves one edited model; choose one of the editors {', '.join(names)}")


def _one_task(name: str, include_path: Sequence[Path], data: Sequence[str]) -> Any:
    """Return the task of ``--task``.

    Raises:
        KnbenchError: it is unknown, or several are named.
    """
    tasks = chosen_tasks(name, include_path, data)
    if len(tasks) != 1:
        raise KnbenchError(f"--task '{name}' names {len(tasks)} tasks; name one")
    return tasks[0]


def _classes(
    names: Sequence[str], args: dict[str, dict[str, str]], plan: PlannedEdit, save: Path | None
) -> list[type[Editor[Any]]]:
    """Return the editor classes, after checks that need no model.

    Raises:
        KnbenchError: an editor cannot be used, a hyper-parameter is wrong, the edit lacks what an editor needs, or an
            edit could not be saved.
    """
    from ..editing import editor_class, parse_overrides

    classes = [editor_class(name) for name in names]
    for cls in classes:
        parse_overrides(cls, args.get(cls.name, {}))
        if cls.needs_subject and not plan.request.subject:
            raise KnbenchError(f"editor '{cls.name}' needs a subject: write {{}} in --prompt and give --subject")
        if cls.needs_rival and not plan.request.target_true:
            raise KnbenchError(f"editor '{cls.name}' needs the answer before the edit; give it with --old")
        if save is not None and cls.kind in ("context", "memory"):
            what = "a text before the prompt" if cls.kind == "context" else "a memory beside the weights"
            raise KnbenchError(
                f"--save: the edit of '{cls.name}' is {what} and cannot be saved as weights; omit --save"
            )
    return classes


def _write(lm: LanguageModel, comparison: Comparison, html: Path | None, save: Path | None) -> None:
    if html is not None:
        from .edit_page import comparison_page

        write_text(html, comparison_page(comparison))
        click.echo(f"knbench: page written: {html}", err=True)
    if save is not None:
        from ..api.saving import save_edited

        (method,) = comparison.methods
        save_edited(lm, comparison, method, save)
        click.echo(f"knbench: edited model saved: {save} (transformers: from_pretrained({str(save)!r}))", err=True)


def _converse(trial: Trial) -> None:
    """Read questions until the end of the input or an empty line, and print the answers.

    A question that the model cannot read is reported, and the next one is read.
    """
    from ..api.questions import own_questions
    from ..api.text import exchange_lines

    click.echo("\nType a text that the model continues; {} is the subject. An empty line ends.", err=True)
    for line in _lines("> "):
        try:
            exchanges = trial.ask(own_questions([line], trial.plan.request.subject))
        except KnbenchError as error:
            click.echo(f"knbench: {error}", err=True)
            continue
        _print(exchange_lines(exchanges))


def _lines(prompt: str) -> Iterator[str]:
    """Yield lines of stdin up to an empty one. The prompt is shown in a terminal only."""
    shown = prompt if sys.stdin.isatty() else ""
    if shown:
        with suppress(ImportError):  # not on Windows
            import readline  # noqa: F401  # line editing and history
    while True:
        try:
            line = input(shown)
        except EOFError:
            return
        if not line.strip():
            return
        yield line


_STYLES: dict[str, dict[str, Any]] = {
    "heading": {"bold": True, "fg": "cyan"},
    "strong": {"bold": True},
    "dim": {"dim": True},
    "plain": {},
}


def _print(lines: Sequence[Line]) -> None:
    for line in lines:
        click.echo(click.style(line.text, **_STYLES[line.style]) if line.text else "")
