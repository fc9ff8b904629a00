"""``knbench export-tasks``: the linguistic tasks for lm-eval's own command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..core.schema import Task
from ..probing.lm_eval_tasks import export_task


@click.command("export-tasks", epilog="\b\nExamples:\n  knbench export-tasks --output lm_eval_tasks\n")
@click.option("--tasks", default="all", show_default=True, help="Linguistic tasks, comma-separated, or 'all'.")
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path),
    default=Path("lm_eval_tasks"),
    show_default=True,
    help="Folder to write; name it to lm_eval with --include_path.",
)
def command(tasks: str, output: Path) -> None:
    """Write linguistic tasks for lm-eval, which then runs them offline.

    The data files are named by their absolute paths: export again after moving the folder.
    """
    for task in _chosen(tasks):
        click.echo(export_task(task, output))
    click.echo(f"Run: lm_eval --model hf --model_args pretrained=MODEL --include_path {output} --tasks knbench")


def _chosen(names: str) -> Sequence[Task]:
    from ..core import registry

    if names == "all":
        return [task for task in registry.tasks().values() if task.kind == "linguistic"]
    return [registry.task(name.strip()) for name in names.split(",")]
