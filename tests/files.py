"""Reading the files of runs in tests, as plain JSON and independently of the types of the product."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from knbench.benchmark.core.records import to_json
from knbench.benchmark.results import documents
from knbench.benchmark.results.documents import load_manifest
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.running.runner import run


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of JSON lines."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()]


def run_folders(*args: Any, **kwargs: Any) -> list[Path]:
    """Run editors over tasks and return the run folders."""
    return [finished.folder for finished in run(*args, **kwargs)]


def rescore(folder: Path) -> dict[str, Any]:
    """Return the result of a run folder, computed from its records, as plain JSON."""
    result = score_files(load_manifest(folder / "manifest.json"), lambda name: folder / name)
    return json.loads(json.dumps(to_json(result)))


def load_result(path: Path) -> dict[str, Any]:
    """Validate a result and return it as plain JSON."""
    assert documents.load_result(path)
    return json.loads(path.read_text(encoding="utf-8"))
