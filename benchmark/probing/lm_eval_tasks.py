"""Exports linguistic tasks as tasks of EleutherAI's lm-eval, each as a YAML file and a JSONL file."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from ..core.errors import KnbenchError
from ..core.files import atomic_write
from ..core.schema import Task

PREFIX = "knbench_"
"""Distinguishes the exported tasks from lm-eval's own."""


def exported_name(name: str) -> str:
    """Return the name of a task in lm-eval.

    >>> exported_name("anaphor-gender")
    'knbench_anaphor_gender'
    """
    return PREFIX + name.replace("-", "_")


def export_task(task: Task, folder: Path) -> Path:
    """Write a task's minimal pairs as an lm-eval task that needs no network.

    The two sentences are the choices after an empty context and are scored in full, as in lm-eval's BLiMP tasks.
    lm-eval's ``acc`` is therefore the share of pairs whose grammatical sentence is more probable.

    Args:
        task: the task.
        folder: folder for the YAML and the JSONL file; created if it does not exist.

    Returns:
        The path of the YAML file.

    Raises:
        KnbenchError: the task has no minimal pairs.
    """
    pairs = task.pairs
    if not pairs:
        raise KnbenchError(f"task '{task.name}' has no minimal pairs; only linguistic tasks can be exported")
    name = exported_name(task.name)
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
