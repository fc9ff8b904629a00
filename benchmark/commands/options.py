"""Options that several commands share, and how their text is read."""

from __future__ import annotations

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

JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of a table.")

PROTOCOL_OPTION = click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default=DEFAULT,
    show_default=True,
    help="Whose numbers the table shows; all come from the same records. See: knbench list protocols.",
)

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


def names_of(text: str, known: Mapping[str, Any], what: str) -> list[str]:
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


def typed() -> str:
    """Return the running command as one could type it again: no paths, no hosts, nothing that is as by default."""
    context = click.get_current_context()
    parts = [context.command_path]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if not given or option.name in ("output", "as_json", "address") or not isinstance(option, click.Option):
            continue
        for item in value if isinstance(value, tuple) else (value,):
            parts += [option.opts[0]] if option.is_flag else [option.opts[0], shlex.quote(_no_folders(str(item)))]
    return " ".join(parts)


def _no_folders(text: str) -> str:
    """Return a path's last part, also behind an equals sign; somebody's folders are nobody's business."""
    return re.sub(r"(^|=)\.{0,2}[/~][^=,]*/([^/=,]+)", r"\1\2", text)


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
