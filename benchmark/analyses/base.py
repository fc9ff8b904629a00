"""Resumable execution of an analysis in an output folder, shared by known, localise, suppress and trace.

The folder contains ``manifest.json`` (model and settings), ``parts.jsonl`` (one line per part, appended when the part
is done), ``analysis.json`` (computed from the two) and the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.documents import ModelCard
from ..core.errors import first_line
from ..core.files import write_json
from ..core.progress import Reporter
from ..core.records import to_json
from ..core.version import __version__
from ..models.language_model import LanguageModel
from ..results.io import ANALYSIS, PART, PARTS, JsonLinesFile, read_json, read_lines, sha256_of
from ..results.json_schema import check
from ..running.environment import describe_environment
from ..running.run_folder import check_hash, claim, locked

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AnalysisPart:
    """One part of an analysis, for example a prompt group. It gives one line of ``parts.jsonl``.

    Attributes:
        key: identifies the part within the analysis.
        task: name of the task.
        kind: kind of the task, ``fact`` or ``linguistic``.
        compute: returns the part's values as JSON types.
    """

    key: str
    task: str
    kind: str
    compute: Callable[[], Mapping[str, Any]]


def run_analysis(
    name: str,
    lm: LanguageModel,
    model: ModelCard,
    settings: Mapping[str, Any],
    parts: Sequence[AnalysisPart],
    summarise: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]],
    folder: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Compute the parts that the folder does not contain yet, and summarise all parts.

    Each part is written to disk when it is done. A part that raises an exception is written with the reason in
    ``failure``; the remaining parts are still computed.

    Args:
        name: ``known``, ``localise``, ``suppress`` or ``trace``.
        lm: the model.
        model: description of the model for the manifest.
        settings: all settings that affect the numbers. A folder with other settings is refused.
        parts: the parts in the order of the summary.
        summarise: computes the result from the lines of all parts, including failed ones, in their order.
        folder: output folder. An existing analysis with the same manifest is continued.
        reporter: receives the progress.

    Returns:
        The content of ``analysis.json``.

    Raises:
        KnbenchError: the folder contains another analysis, its parts changed after the analysis was written, or another
            process is writing to it.
    """
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "analysis": name,
        "benchmark_version": __version__,
        "model": to_json(model),
        "settings": dict(settings),
        "environment": describe_environment(str(lm.device)),
    }
    with locked(folder):
        claim(folder, manifest)
        if (folder / ANALYSIS).exists():
            finished = read_json(folder / ANALYSIS)
            check(finished, "analysis", str(folder / ANALYSIS))
            check_hash(folder / PARTS, finished["parts"]["sha256"], ANALYSIS)
        parts_file = JsonLinesFile(folder / PARTS, PART)
        if any(part.key not in parts_file.keys for part in parts):  # an analysis with more parts may be interrupted
            (folder / ANALYSIS).unlink(missing_ok=True)
        reporter.begin(len(parts))
        for part in parts:
            if part.key not in parts_file.keys:
                reporter.doing(part.key)
                row: dict[str, Any] = {"key": part.key, "task": part.task, "kind": part.kind, "failure": None}
                try:
                    row.update(part.compute())
                except Exception as error:
                    row["failure"] = f"{type(error).__name__}: {first_line(error)}"
                parts_file.append(row)
            reporter.advance()
    row_by_key = {row["key"]: row for row in read_lines(folder / PARTS, PART)}
    rows = [row_by_key[part.key] for part in parts]
    document = {
        **manifest,
        "parts": {
            "file": PARTS,
            "sha256": sha256_of(folder / PARTS),
            "count": len(rows),
            "failed": sum(row["failure"] is not None for row in rows),
        },
        "result": dict(summarise(rows)),
    }
    check(document, "analysis", str(folder / ANALYSIS))
    write_json(folder / ANALYSIS, document)
    return document


def group_by_task(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the lines of parts by task, including failed parts."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return tasks
