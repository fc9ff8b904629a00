"""Our linguistic tasks as tasks of EleutherAI's lm-eval: a YAML file and a JSONL file each."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from ..core.errors import KnbenchError
from ..core.files import atomic_write
from ..core.schema import Task

PREFIX = "knbench_"
"""Keeps our task names apart from lm-eval's own."""


def exported_name(name: str) -> str:
    """Return how lm-eval calls one of our tasks."""
    return PREFIX + name.replace("-", "_")


def export_task(task: Task, folder: Path) -> Path:
    """Write one task's minimal pairs as an lm-eval task that needs no network, and return its YAML file.

    The two sentences are the choices of an empty context, scored whole, as lm-eval's own BLiMP tasks are; lm-eval's
    ``acc`` is then the share of pairs whose grammatical sentence is the more probable.
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
