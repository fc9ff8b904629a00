"""``knbench export-tasks``: write the linguistic tasks in the format of lm-eval."""

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
    help="Output folder. Pass it to lm_eval as --include_path.",
)
def export_tasks_command(tasks: str, output: Path) -> None:
    """Write linguistic tasks as lm-eval tasks, which run without network access.

    Task files refer to their data by absolute path. Export again after moving the folder.
    """
    for task in _select_tasks(tasks):
        click.echo(export_task(task, output))
    click.echo(f"Run: lm_eval --model hf --model_args pretrained=MODEL --include_path {output} --tasks knbench")


def _select_tasks(names: str) -> Sequence[Task]:
    from ..core import registry

    if names == "all":
        return [task for task in registry.tasks().values() if task.kind == "linguistic"]
    return [registry.task(name.strip()) for name in names.split(",")]
