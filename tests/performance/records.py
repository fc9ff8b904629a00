"""Writes finished runs of any size with random numbers, to time code that reads records."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROBES = (
    ("reliability", "new"),
    ("paraphrase", "new"),
    ("paraphrase", "new"),
    ("paraphrase", "new"),
    ("symmetry", "new"),
    ("synonym", "new"),
    ("neighbourhood", "unchanged"),
    ("neighbourhood", "unchanged"),
    ("neighbourhood", "unchanged"),
    ("neighbourhood", "unchanged"),
)
WORDS = ("Rome", "Ottawa", "Paris", "Lima", "Oslo", "Cairo")
TOKENS = 2
"""Tokens per answer."""


def write_run(
    folder: Path,
    cases: int,
    *,
    editor: str = "made-up",
    task: str = "made-up",
    kind: str = "fact",
    seed: int = 0,
    skill: float = 0.5,
    **protocol: Any,
) -> None:
    """Write the manifest and the records of a synthetic run.

    Args:
        folder: the run folder.
        cases: number of cases.
        editor: name of the editor.
        task: name of the task.
        kind: kind of the task.
        seed: seed of the random numbers.
        skill: probability that the target of a probe is preferred after the edit.
        protocol: fields of the manifest's protocol to override.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "records.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(cases):
            stream.write(json.dumps(_record(rng, index, skill)) + "\n")
    (folder / "manifest.json").write_text(json.dumps(_manifest(editor, task, kind, cases, protocol)), encoding="utf-8")


def _record(rng: random.Random, index: int, skill: float) -> dict[str, Any]:
    words = random.Random(index)  # all runs have the same questions
    prompts = [f"The capital of {words.choice(WORDS)} number {index} is" for _ in PROBES]
    return {
        "index": index,
        "case_id": f"case-{index}",
        "source": "",
        "request": {
            "prompt": "The capital of {} is",
            "subject": "x",
            "target_new": "Rome",
            "target_true": "Ottawa",
            "support": [],
        },
        "edit": {
            "parameters": [],
            "parameters_touched": 0,
            "modules": [],
            "prefix": "",
            "diagnostics": {"losses": [1.0, 0.5]},
        },
        "probes": [
            {
                "criterion": criterion,
                "kind": "completion",
                "prompt": prompt,
                "target": "Rome",
                "rival": "Ottawa",
                "expect": expect,
                "aliases": [],
                "suffix": ".",
                "before": _observation(rng, -0.5),
                "after": {
                    **_observation(rng, 0.5 if rng.random() < skill else -0.5),
                    **({"kl": rng.random()} if expect == "unchanged" else {}),
                },
            }
            for (criterion, expect), prompt in zip(PROBES, prompts, strict=True)
        ],
        "failure": None,
        "timings": {"edit_seconds": rng.random(), "probe_seconds": rng.random(), "peak_memory_mb": 100.0},
    }


def _answer(rng: random.Random, margin: float) -> dict[str, Any]:
    logprobs = [-9 * rng.random() - (9 if margin < 0 else 0) for _ in range(TOKENS)]
    ranks = [rng.choice((0, 0, 1, 17)) for _ in logprobs]
    return {"logprob": sum(logprobs), "token_logprobs": logprobs, "ranks": ranks, "argmax": [5 for _ in logprobs]}


def _observation(rng: random.Random, margin: float) -> dict[str, Any]:
    return {
        "target": _answer(rng, margin),
        "rival": _answer(rng, -margin),
        "top": " Rome",
        "top_id": rng.choice((5, 6)),
        "top_logprob": -rng.random(),
        "generated": f" {rng.choice(WORDS)}, the city of",
    }


def _manifest(editor: str, task: str, kind: str, cases: int, protocol: Mapping[str, Any]) -> dict[str, Any]:
    text = {
        "title": f"Made-up {task}",
        "description": "made up",
        "licence": "CC0-1.0",
        "citation": "none",
        "source": "none",
    }
    return {
        "schema_version": 1,
        "benchmark_version": "0",
        "model": {
            "name": "made-up",
            "revision": None,
            "weight_hash": "0" * 64,
            "architecture": "none",
            "layers": 1,
            "width": 1,
            "vocabulary": 1,
            "objective": "causal",
            "parameters": 1,
            "dtype": "float32",
        },
        "seed": 0,
        "environment": {},
        "editor": {
            "name": editor,
            "summary": "Made-up numbers",
            "paper": "",
            "config": {},
            "config_source": "",
            "prepared": {},
        },
        "task": {
            **text,
            "name": task,
            "version": 1,
            "kind": kind,
            "relation": "r",
            "criteria": sorted({criterion for criterion, _ in PROBES}),
            "content_hash": "0" * 64,
            "cases_total": cases,
        },
        "protocol": {
            "regime": "single",
            "batch_edits": None,
            "checkpoints": [],
            "split": "test",
            "subset": None,
            "cases": cases,
            "limit": None,
            "known_only": False,
            "known_by": None,
            "bos": "auto",
            "bos_prepended": True,
            "new_tokens": 6,
            "fluency_tokens": 0,
            "drift": None,
            "batch_size": 32,
            **protocol,
        },
    }


def write_board(folder: Path, methods: int, tasks: int, cases: int, *, variants: int = 8) -> None:
    """Write results of many methods on many tasks, half of them linguistic.

    Only ``variants`` runs are computed. Each pair of method and task gets the records and the result of one of them,
    under its own names.
    """
    from knbench.benchmark.running.run_folder import finish

    rng = random.Random(0)
    computed = []
    for number in range(variants):
        run_folder = folder / "variants" / str(number)
        write_run(run_folder, cases, seed=number, skill=(number + 1) / (variants + 1))
        finish(run_folder)
        computed.append(
            (
                json.loads((run_folder / "result.json").read_text(encoding="utf-8")),
                (run_folder / "records.jsonl").read_bytes(),
            )
        )
    for task in range(tasks):
        for method in range(methods):
            result, records = computed[min(variants - 1, max(0, round(variants * method / methods + rng.gauss(0, 1))))]
            task_fields = {
                "name": f"task-{task:02}",
                "title": f"Made-up task {task}",
                "kind": ("fact", "linguistic")[task % 2],
            }
            editor = {**result["editor"], "name": f"method-{method:03}"}
            run_folder = folder / editor["name"] / task_fields["name"]
            run_folder.mkdir(parents=True)
            (run_folder / "records.jsonl").write_bytes(records)
            document = {**result, "editor": editor, "task": {**result["task"], **task_fields}}
            (run_folder / "result.json").write_text(json.dumps(document), encoding="utf-8")
    shutil.rmtree(folder / "variants")
