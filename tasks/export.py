"""Writes the linguistic tasks for EleutherAI's lm-eval: a YAML file and a JSONL file each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from ..benchmark.errors import KnbenchError
from ..benchmark.files import atomic_write
from ..benchmark.types import Task

PREFIX = "knbench_"
"""Keeps our task names apart from lm-eval's own."""


def export_task(task: Task, folder: Path) -> Path:
    """Write one task's minimal pairs as an lm-eval task that needs no network, and return its YAML file.

    The two sentences are the choices of an empty context, scored whole, as lm-eval's own BLiMP tasks are; lm-eval's
    ``acc`` is then the share of pairs whose grammatical sentence is the more probable.
    """
    pairs = task.pairs()
    if not pairs:
        raise KnbenchError(f"task '{task.name}' has no minimal pairs; only linguistic tasks can be exported")
    name = PREFIX + task.name.replace("-", "_")
    data = (folder / f"{name}.jsonl").resolve()
    with atomic_write(data) as stream:
        stream.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    definition = {
        "task": name,
        "tag": "knbench",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "num_fewshot": 0,
        "doc_to_text": "",
        "target_delimiter": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": task.version, "content_hash": task.content_hash()},
    }
    path = folder / f"{name}.yaml"
    with atomic_write(path) as stream:
        yaml.safe_dump(definition, stream, sort_keys=False, allow_unicode=True)
    return path


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
    from ..benchmark import registry

    if names == "all":
        return [task for task in registry.tasks().values() if task.kind == "linguistic"]
    return [registry.task(name.strip()) for name in names.split(",")]
