"""The frame that known, localise, suppress and trace share: a folder that a stopped analysis goes on in.

It holds ``manifest.json`` (model and settings), ``parts.jsonl`` (one line per group of prompts, written as it is found)
and ``analysis.json`` (computed from the two), with figures beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.files import write_json
from ..core.progress import Reporter
from ..models.language_model import LanguageModel
from ..results.io import ANALYSIS, PARTS, RecordsFile, read_records, sha256_of
from ..results.json_schema import check
from ..running.environment import describe_environment
from ..running.run_folder import claim, locked

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AnalysisPart:
    """One piece of work: what it is of, and how it is done."""

    key: str
    task: str
    kind: str
    work: Callable[[], Mapping[str, Any]]


def analyse(
    name: str,
    lm: LanguageModel,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    parts: Sequence[AnalysisPart],
    summarise: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]],
    folder: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Do the parts that are missing, each written down as it is done, and summarise all of them.

    A part that fails is a part with its reason in ``failure``; the others go on.

    Args:
        name: ``known``, ``localise``, ``suppress`` or ``trace``.
        lm: the model.
        model: what identifies it.
        settings: what decides the numbers; a folder of other settings is refused.
        parts: the work.
        summarise: the result from all parts, in their order.
        folder: where to write, or to go on.
        reporter: told of the progress.

    Returns:
        The document that stands in ``analysis.json``.

    Raises:
        KnbenchError: the folder holds another analysis.
    """
    about = {
        "schema_version": SCHEMA_VERSION,
        "analysis": name,
        "benchmark_version": __version__,
        "model": dict(model),
        "settings": dict(settings),
        "environment": describe_environment(str(lm.device)),
    }
    with locked(folder):
        claim(folder, about)
        lines = RecordsFile(folder / PARTS, "part")
        reporter.begin(len(parts))
        for part in parts:
            if part.key not in lines.done:
                reporter.doing(part.key)
                row: dict[str, Any] = {"key": part.key, "task": part.task, "kind": part.kind, "failure": None}
                try:
                    row.update(part.work())
                except Exception as error:
                    row["failure"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                lines.append(row)
            reporter.advance()
    found = {row["key"]: row for row in read_records(folder / PARTS, "part")}
    rows = [found[part.key] for part in parts]
    document = {
        **about,
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


def by_task(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return parts sorted by their task, failed ones too."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return tasks
