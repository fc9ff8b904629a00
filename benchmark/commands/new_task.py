"""``knbench new-task``: write a commented task of facts with three example rows."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import click

from ..core.errors import KnbenchError

TEMPLATE = "task_template"


@click.command(
    "new-task", epilog="\b\nExamples:\n  knbench new-task rivers\n  knbench new-task rivers --output my_tasks\n"
)
@click.argument("name")
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="current folder",
    help="Folder of the files. It is created if it does not exist.",
)
def new_task_command(name: str, output: Path) -> None:
    """Write NAME.yaml and NAME.csv: a commented task of facts with three example rows.

    The task can be run at once. Replace its rows and templates by your own.
    """
    for path in write_task(name, output):
        click.echo(path)
    click.echo(f"Check: knbench describe {output / name}.yaml --check")
    click.echo(f"Run:   knbench run --editors none,rome --tasks {name} --include-path {output} --limit 3")


def write_task(name: str, folder: Path) -> tuple[Path, Path]:
    """Write the files of a new task and return their paths.

    Args:
        name: name of the task: lower-case letters, digits and hyphens.
        folder: folder of the files.

    Raises:
        KnbenchError: the name is not valid, a file exists, or it cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise KnbenchError(f"'{name}' is not a name of a task; use lower-case letters, digits and hyphens")
    title = name.replace("-", " ").capitalize()
    texts = {suffix: _template(suffix) for suffix in ("yaml", "csv")}
    definition, table = folder / f"{name}.yaml", folder / f"{name}.csv"
    for path in (definition, table):
        if path.exists():
            raise KnbenchError(f"{path} exists; choose another name or --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        definition.write_text(texts["yaml"].format(name=name, title=title), encoding="utf-8")
        table.write_text(texts["csv"], encoding="utf-8")
    except OSError as error:
        raise KnbenchError(f"{folder}: cannot write the task: {error.strerror}") from None
    return definition, table


def _template(suffix: str) -> str:
    return files(__package__).joinpath(f"{TEMPLATE}.{suffix}").read_text(encoding="utf-8")
