"""``knbench localise``: find knowledge neurons and measure how localised they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import KnbenchError
from .analysis_options import GROUP_PROMPTS_OPTION, AnalysisOptions, analysis_options, no_groups_error, run_command

if TYPE_CHECKING:
    from ..analyses.base import AnalysisPart
    from ..models.language_model import LanguageModel


@click.command(
    "localise",
    epilog="\b\nExamples:\n  knbench localise --tasks capital,anaphor-gender\n"
    "  knbench localise --model toy-bert --tasks det-noun-agreement --groups 4\n",
)
@analysis_options
@click.option(
    "--groups", type=click.IntRange(min=1), default=5, show_default=True, help="Maximum number of groups per task."
)
@GROUP_PROMPTS_OPTION
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of points in the integral of the attribution.",
)
@click.option(
    "--threshold",
    type=float,
    default=0.2,
    show_default=True,
    help="Minimum attribution of a neuron, relative to the largest of the prompt.",
)
def localise_command(groups: int, prompts: int, steps: int, threshold: float, **common: Any) -> None:
    """Find the knowledge neurons of facts and of grammatical phenomena, and measure how localised they are.

    The prompts of a group ask for the same fact or word. For each group the command reports the number of neurons
    (|KN|), the share of prompts that must agree on a neuron (tau) and the similarity of the prompts' attributions
    (R1^2). Run the same command to continue an interrupted analysis.
    """
    options = AnalysisOptions(**common)
    tasks = options.resolve_tasks()
    from dataclasses import asdict

    from ..analyses.base import AnalysisPart
    from ..analyses.localisation import (
        LocaliseSettings,
        build_prompt_groups,
        localise,
        neuron_overlap,
        summarise_groups,
    )
    from ..models.attribution import Integral, Search

    try:
        settings = LocaliseSettings(prompts, groups, options.seed, Integral(steps), Search(threshold))
    except ValueError as error:
        raise KnbenchError(str(error)) from None

    def plan(lm: LanguageModel) -> list[AnalysisPart]:
        parts = []
        for task in tasks:
            task_groups = build_prompt_groups(task, options.select_cases(lm, task), settings)
            if not task_groups:
                raise no_groups_error(task, prompts)
            for group in task_groups:
                compute = partial(localise, lm, group, settings)
                parts.append(AnalysisPart(f"{task.name}: {group.name}", task.name, task.kind, compute))
        return parts

    run_command(
        "localise",
        options,
        tasks,
        {**asdict(settings), "all_cases": options.all_cases},
        plan,
        lambda lm, rows: {"tasks": summarise_groups(rows, lm.n_layers), "overlap": neuron_overlap(rows)},
        _show,
    )


def _show(document: Mapping[str, Any]) -> None:
    """Print one row per task."""
    from ..scoring.formatting import format_interval
    from .terminal import print_table

    def cell(row: Mapping[str, Any], name: str, digits: int) -> str:
        if name not in row:
            return "-"
        estimate, spec = row[name], f".{digits}f"
        return f"{estimate['value']:{spec}}" + format_interval(estimate["low"], estimate["high"], spec)

    rows = [
        [
            row["task"],
            row["kind"],
            row["groups"],
            row["prompts"],
            cell(row, "neurons", 1),
            cell(row, "tau", 2),
            cell(row, "r1_squared", 2),
            max(range(len(row["layers"])), key=row["layers"].__getitem__),
        ]
        for row in document["result"]["tasks"]
    ]
    header = ["task", "kind", "groups", "prompts", "|KN|", "tau", "R1^2", "peak layer"]
    print_table(f"knowledge neurons of {document['model']['name']}", header, rows)
