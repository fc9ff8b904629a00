"""Command-line options that several commands share, and the parsing of their values."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..core import registry
from ..core.errors import KnbenchError, unknown_name
from ..core.schema import Task
from ..scoring.protocols import DEFAULT, PROTOCOLS

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
"""Sources of values that the user gave: flags, and the file of ``--config``."""
_NOT_REPEATED = ("output", "as_json", "address", "config", "print_config", "quiet")
"""Options that the command line in a result leaves out. The values of ``--config`` appear as flags."""

JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of a table.")

QUIET_OPTION = click.option("--quiet", is_flag=True, help="Show no progress.")

PROTOCOL_OPTION = click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default=DEFAULT,
    show_default=True,
    help="Set of measures to show in the table. All are computed from the same records. See: knbench list protocols.",
)

ALL_COLUMNS_OPTION = click.option(
    "--all-columns", is_flag=True, help="Also show every criterion, besides the edit score and its parts."
)

CHAT_OPTION = click.option(
    "--apply-chat-template",
    "--apply_chat_template",
    is_flag=True,
    help="Ask every prompt as the user's message of the tokenizer's chat template, as in lm-eval. The answer is the "
    "beginning of the reply.",
)

TASKS_HELP = "Comma-separated task names, or 'all'. Published data sets: READER:SELECTION, for example pararel:P36."
INCLUDE_OPTION = click.option(
    "--include-path",
    "--include_path",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder with additional task definitions (*.yaml). Can be repeated.",
)
DATA_OPTION = click.option(
    "--data",
    multiple=True,
    metavar="READER=SOURCE",
    help="Source of a published data set: Hugging Face id, file or folder. Can be repeated.",
)


def chosen_tasks(text: str, include: Sequence[Path], data: Sequence[str]) -> list[Task]:
    """Return the tasks that ``--tasks``, ``--include-path`` and ``--data`` select.

    Items of published data that cannot be read are reported on stderr.

    Args:
        text: comma-separated names, or ``all``.
        include: folders with task definitions.
        data: items of the form ``READER=SOURCE``.

    Raises:
        KnbenchError: a task or reader is unknown, or a definition or data set cannot be read.
    """
    tasks, notes = registry.resolve_tasks(text, include, read_data_sources(data, text))
    for note in notes:
        click.echo(f"knbench: {note}", err=True)
    return tasks


def read_data_sources(data: Sequence[str], tasks: str) -> dict[str, str]:
    """Parse ``--data``: items of the form ``pararel=data_all_allbags.json``.

    Args:
        data: the values of the option.
        tasks: the value of ``--tasks``.

    Returns:
        The source of each reader.

    Raises:
        KnbenchError: an item has another form, a reader is unknown or has two sources, or no task uses it.
    """
    readers = registry.registered(registry.READERS)
    used = {name.strip().partition(":")[0] for name in tasks.split(",")}
    sources: dict[str, str] = {}
    for item in data:
        reader, _, source = (part.strip() for part in item.partition("="))
        source = str(Path(source).expanduser()) if source.startswith("~") else source  # a shell leaves it as it is
        if reader not in readers:
            raise unknown_name("reader of published data", reader, readers)
        if not source:
            raise KnbenchError(f"--data '{reader}': expected READER=SOURCE, for example pararel=data_all_allbags.json")
        if sources.setdefault(reader, source) != source:
            raise KnbenchError(
                f"--data '{item}': {reader} already has the source '{sources[reader]}'; give one source for each reader"
            )
        if reader not in used:
            raise KnbenchError(f"--data '{item}': no task of {reader} is selected; add {reader} to --tasks")
    return sources


def names_of(text: str, known: Mapping[str, Any], what: str) -> list[str]:
    """Split a comma-separated list of names. ``all`` gives every known name.

    Args:
        text: the value of the option.
        known: the valid names.
        what: what the names denote, for the error message.

    Raises:
        KnbenchError: a name is unknown, or the list is empty.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if names == ["all"]:
        return list(known)
    for name in names:
        if name not in known:
            raise unknown_name(what, name, known)
    if not names:
        raise KnbenchError(f"no {what} given; known: {', '.join(known)}")
    return names


def known_editors(text: str) -> dict[str, Any]:
    """Return the registered editors, and the compositions with guards that a list of names contains.

    Args:
        text: the value of the option, for example ``memit,memit+rect``.

    Raises:
        KnbenchError: a composition names an unknown guard.
    """
    known: dict[str, Any] = dict(registry.registered(registry.EDITORS))
    guards = registry.registered(registry.GUARDS)
    for name in (part.strip() for part in text.split(",")):
        base, *added = name.split("+")
        for guard in added:
            if guard not in guards:
                raise unknown_name(f"guard of '{name}'", guard, guards)
        if added and base in known:
            known[name] = known[base]
    return known


def read_editor_args(items: Sequence[str], editors: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse ``--editor-args``: items of the form ``rome.layer=7``, or comma-separated lists of them.

    Args:
        items: the values of the option.
        editors: names of the selected editors.

    Returns:
        Per editor, hyper-parameters by name, as text.

    Raises:
        KnbenchError: an item has another form, or belongs to an editor that is not selected.
    """
    found: dict[str, dict[str, str]] = {}
    for item in items:
        for part in re.split(r",(?=[\w+-]+\.\w+=)", item):
            match = re.fullmatch(r"([\w+-]+)\.(\w+)=(.*)", part.strip(), flags=re.DOTALL)
            if match is None:
                raise KnbenchError(f"--editor-args '{part}': expected EDITOR.FIELD=VALUE, for example rome.layer=7")
            editor, name, value = match.groups()
            if editor not in editors:
                raise KnbenchError(
                    f"--editor-args '{part}': editor '{editor}' is not selected; selected: {', '.join(editors)}"
                )
            found.setdefault(editor, {})[name] = value
    return found


def command_line() -> str:
    """Return the current command with the options that the user gave, for reproduction.

    Folders, the output path and the cluster address are left out, because results are published.
    """
    context = click.get_current_context()
    parts = [context.command_path]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        given = context.get_parameter_source(option.name or "") in GIVEN
        if not given or option.name in _NOT_REPEATED or not isinstance(option, click.Option):
            continue
        for item in value if isinstance(value, tuple) else (value,):
            parts += [option.opts[0]] if option.is_flag else [option.opts[0], shlex.quote(_without_folders(str(item)))]
    return " ".join(parts)


def _without_folders(text: str) -> str:
    """Replace every path by its last part, also after an equals sign.

    >>> _without_folders("/home/me/models/gpt2"), _without_folders("pararel=../data/all.json")
    ('gpt2', 'pararel=all.json')
    """
    return re.sub(r"(^|=)\.{0,2}[/~][^=,]*/([^/=,]+)", r"\1\2", text)


def check_installed(*modules: str) -> None:
    """Check that packages of an extra are installed, without importing them.

    Raises:
        ModuleNotFoundError: a package is missing; the command line explains how to install it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
