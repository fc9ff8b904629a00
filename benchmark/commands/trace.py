"""``knbench trace``: find the states that carry an answer, by causal tracing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import KnbenchError
from ..core.schema import Case
from .analysis_options import AnalysisOptions, analysis_options, run_command

if TYPE_CHECKING:
    from ..analyses.base import AnalysisPart
    from ..models.language_model import LanguageModel


@click.command("trace", epilog="\b\nExamples:\n  knbench trace --tasks capital,det-noun-agreement --limit 20\n")
@analysis_options
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Maximum number of prompts per task."
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=10, show_default=True, help="Number of noise samples per prompt."
)
@click.option(
    "--noise",
    type=float,
    default=3.0,
    show_default=True,
    help="Standard deviation of the noise, in standard deviations of the subjects' embeddings.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of layers whose MLP or attention outputs are restored together.",
)
def trace_command(limit: int, samples: int, noise: float, window: int, **common: Any) -> None:
    """Find the states that carry an answer from the subject, or a grammatical cue, to the end of the prompt.

    The command adds noise to the subject's embeddings and restores single states, or windows of MLP or attention
    outputs. The indirect effect is the increase of the answer's probability, averaged over prompts by the role of the
    token. Run the same command to continue an interrupted analysis.
    """
    options = AnalysisOptions(**common)
    tasks = options.resolve_tasks()
    from dataclasses import asdict

    from ..analyses.base import AnalysisPart
    from ..analyses.tracing import TraceSettings, mean_effects_by_role, noise_scale, summarise_traces, trace

    try:
        settings = TraceSettings(samples, noise, window, options.seed)
    except ValueError as error:
        raise KnbenchError(str(error)) from None

    def compute(lm: LanguageModel, scale: float, case: Case) -> dict[str, Any]:
        result = trace(lm, case.request, scale, settings)
        return {
            "prompt": case.request.text,
            "subject": case.request.subject,
            "answer": case.request.target_true,
            "clean": result.clean,
            "corrupted": result.corrupted,
            "effects": mean_effects_by_role(result),
        }

    def plan(lm: LanguageModel) -> list[AnalysisPart]:
        if not lm.causal:
            raise KnbenchError(f"tracing needs a causal model; '{lm.name}' is a masked model")
        parts = []
        for task in tasks:
            cases = [case for case in options.select_cases(lm, task) if case.request.subject]
            if not cases:
                raise KnbenchError(f"no case of task '{task.name}' has a subject, which tracing corrupts")
            scale = noise_scale(lm, task, settings.noise)
            for case in cases[:limit]:
                key = f"{task.name}: {case.id}"
                parts.append(AnalysisPart(key, task.name, task.kind, partial(compute, lm, scale, case)))
        return parts

    run_command(
        "trace",
        options,
        tasks,
        {**asdict(settings), "limit": limit, "all_cases": options.all_cases},
        plan,
        lambda _lm, rows: {"tasks": summarise_traces(rows)},
        _show,
    )


def _show(document: Mapping[str, Any]) -> None:
    """Print one row per task."""
    from .terminal import print_table

    def peak(row: Mapping[str, Any], kind: str) -> str:
        cell = row["peaks"].get(kind)
        return f"{cell['effect']:+.2g} at {cell['role']}, layer {cell['layer']}" if cell else "-"

    rows = [
        [
            row["task"],
            row["kind"],
            row["prompts"],
            f"{row['clean']:.2g}",
            f"{row['corrupted']:.2g}",
            peak(row, "state"),
            peak(row, "mlp"),
            peak(row, "attention"),
        ]
        for row in document["result"]["tasks"]
        if row["prompts"]
    ]
    header = ["task", "kind", "prompts", "P clean", "P corrupted", "state peak", "MLP peak", "attention peak"]
    print_table(f"causal traces of {document['model']['name']}", header, rows)
