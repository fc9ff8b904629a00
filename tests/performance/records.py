"""A finished run as large as wished, made of random numbers: for timing what reads records."""

from __future__ import annotations

import json
import random
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
"""Of each answer."""


def write_run(folder: Path, cases: int, *, editor: str = "made-up", task: str = "made-up", seed: int = 0) -> None:
    """Write the manifest and the records of a run that never was."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "records.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(cases):
            stream.write(json.dumps(_record(rng, index)) + "\n")
    (folder / "manifest.json").write_text(json.dumps(_manifest(editor, task, cases)), encoding="utf-8")


def _record(rng: random.Random, index: int) -> dict[str, Any]:
    prompts = [f"The capital of {rng.choice(WORDS)} number {index} is" for _ in PROBES]
    return {
        "index": index,
        "case_id": f"case-{index}",
        "source": "",
        "request": {"prompt": "The capital of {} is", "subject": "x", "target_new": "Rome", "target_true": "Ottawa"},
        "edit": {"parameters": [], "parameters_touched": 0, "prefix": "", "diagnostics": {"losses": [1.0, 0.5]}},
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
                "before": _observation(rng),
                "after": {**_observation(rng), **({"kl": rng.random()} if expect == "unchanged" else {})},
            }
            for (criterion, expect), prompt in zip(PROBES, prompts, strict=True)
        ],
        "failure": None,
        "timings": {"edit_seconds": rng.random(), "probe_seconds": rng.random(), "peak_memory_mb": 100.0},
    }


def _answer(rng: random.Random) -> dict[str, Any]:
    logprobs = [-9 * rng.random() for _ in range(TOKENS)]
    ranks = [rng.choice((0, 0, 1, 17)) for _ in logprobs]
    return {"logprob": sum(logprobs), "token_logprobs": logprobs, "ranks": ranks, "argmax": [5 for _ in logprobs]}


def _observation(rng: random.Random) -> dict[str, Any]:
    return {
        "target": _answer(rng),
        "rival": _answer(rng),
        "top": " Rome",
        "top_id": rng.choice((5, 6)),
        "top_logprob": -rng.random(),
        "generated": f" {rng.choice(WORDS)}, the city of",
    }


def _manifest(editor: str, task: str, cases: int) -> dict[str, Any]:
    text = {"title": "T", "description": "made up", "licence": "CC0-1.0", "citation": "none", "source": "none"}
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
        "editor": {"name": editor, "summary": "", "paper": "", "config": {}, "config_source": "", "prepared": {}},
        "task": {
            **text,
            "name": task,
            "version": 1,
            "kind": "fact",
            "relation": "r",
            "criteria": sorted({criterion for criterion, _ in PROBES}),
            "content_hash": "0" * 64,
            "cases_total": cases,
        },
        "protocol": {
            "regime": "single",
            "split": "test",
            "cases": cases,
            "limit": None,
            "known_only": False,
            "bos": "auto",
            "bos_prepended": True,
            "new_tokens": 6,
            "batch_size": 32,
        },
    }
