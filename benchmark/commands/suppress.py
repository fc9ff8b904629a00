"""``knbench suppress``: suppress or enhance neurons and measure the effect on a class of words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import click

from ..core.errors import KnbenchError
from .analysis_options import GROUP_PROMPTS_OPTION, AnalysisOptions, analysis_options, no_groups_error, run_command

if TYPE_CHECKING:
    import numpy as np

    from ..analyses.base import AnalysisPart
    from ..analyses.localisation import PromptGroup
    from ..analyses.suppression import Frame, Operation
    from ..models.language_model import LanguageModel

RESULT_FIELDS = ("key", "task", "neurons", "words", "flipped", "right_before", "right_after")


@click.command(
    "suppress",
    epilog="\b\nExamples:\n  knbench suppress --tasks det-noun-agreement --neurons found --corpus stdlib\n"
    "  knbench suppress --tasks anaphor-gender --words reflexives --neurons 12:304,17:1021 --operation enhance\n",
)
@analysis_options
@click.option(
    "--neurons",
    default="found",
    show_default=True,
    help="Neurons as LAYER:INDEX, comma-separated; or 'found' for those that localise finds for each group.",
)
@click.option(
    "--operation",
    type=click.Choice(["suppress", "enhance"]),
    default="suppress",
    show_default=True,
    help="Set the neurons' output to zero, or double it.",
)
@click.option(
    "--words",
    default="determiners",
    show_default=True,
    help="Word class: determiners, reflexives, or a definition such as singular=this|that,plural=these|those.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=40,
    show_default=True,
    help="Maximum number of sentences per task.",
)
@click.option(
    "--groups",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Maximum number of groups per task for which neurons are found.",
)
@GROUP_PROMPTS_OPTION
@click.option(
    "--corpus",
    help="Text file for the correlation with word frequency; 'stdlib' is the docstrings of Python's standard library.",
)
def suppress_command(
    neurons: str,
    operation: str,
    words: str,
    limit: int,
    groups: int,
    prompts: int,
    corpus: str | None,
    **common: Any,
) -> None:
    """Suppress or enhance neurons and compare the probabilities of a class of words before and after.

    The command reports the relative change of each word with a paired test and the share of categorical predictions
    that flip. With --corpus it also reports the correlation of the changes with how often a word precedes singular or
    plural nouns. Run the same command to continue an interrupted analysis.
    """
    options = AnalysisOptions(**common)
    tasks = options.resolve_tasks()
    from ..analyses.base import AnalysisPart
    from ..analyses.localisation import LocaliseSettings, build_prompt_groups, localise
    from ..analyses.suppression import build_frames, parse_word_class, suppress, word_probabilities
    from ..analyses.word_frequency import correlate_with_frequency, count_following_nouns, read_corpus

    word_class = parse_word_class(words)
    selected_neurons = _parse_neurons(neurons)
    corpus_words = read_corpus(corpus) if corpus else None
    search_settings = LocaliseSettings(prompts, groups, options.seed)

    def compute(
        lm: LanguageModel,
        group: PromptGroup | None,
        frames: Sequence[Frame],
        unedited: Callable[[], np.ndarray],
    ) -> Mapping[str, Any]:
        """Suppress the neurons of a group, or the selected ones if there is no group."""
        if group is None:
            located = selected_neurons or []
        else:
            located = [(layer, index) for layer, index in localise(lm, group, search_settings)["neurons"]]
        if not located:
            raise ValueError("no neuron reaches the thresholds")
        return suppress(lm, located, cast("Operation", operation), frames, word_class, unedited)

    def plan(lm: LanguageModel) -> list[AnalysisPart]:
        parts = []
        for task in tasks:
            cases = options.select_cases(lm, task)
            frames = build_frames(cases, word_class)[:limit]
            unedited = cache(partial(word_probabilities, lm, frames, word_class))  # shared by the groups of the task
            task_groups: Sequence[PromptGroup | None] = (
                [None] if selected_neurons else build_prompt_groups(task, cases, search_settings)
            )
            if not task_groups:
                raise no_groups_error(task, prompts)
            for group in task_groups:
                key = f"{task.name}: {group.name if group else neurons}"
                parts.append(AnalysisPart(key, task.name, task.kind, partial(compute, lm, group, frames, unedited)))
        return parts

    def summarise(_lm: LanguageModel, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {"words": {name: list(group) for name, group in word_class.items()}, "groups": []}
        all_words = [word for group in word_class.values() for word in group]
        counts = count_following_nouns(corpus_words, all_words) if corpus_words else None
        for row in rows:
            if row["failure"] is None:
                frequency = correlate_with_frequency(row["words"], counts) if counts else None
                result["groups"].append({**{name: row[name] for name in RESULT_FIELDS}, "frequency": frequency})
        return result

    settings = {
        "neurons": neurons,
        "operation": operation,
        "words": {name: list(group) for name, group in word_class.items()},
        "limit": limit,
        "groups": groups,
        "prompts": prompts,
        "seed": options.seed,
        "all_cases": options.all_cases,
        "corpus": corpus,
    }
    run_command("suppress", options, tasks, settings, plan, summarise, partial(_show, operation))


def _parse_neurons(text: str) -> list[tuple[int, int]] | None:
    """Parse ``12:304,17:1021`` to (layer, index) pairs. Return None for ``found``.

    Raises:
        KnbenchError: the text has another form.
    """
    if text == "found":
        return None
    neurons = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+):(\d+)\s*", part)
        if match is None:
            raise KnbenchError(f"--neurons '{part}': expected 'found' or LAYER:INDEX, such as 12:304")
        neurons.append((int(match[1]), int(match[2])))
    return neurons


def _show(operation: str, document: Mapping[str, Any]) -> None:
    """Print for each group a table of words, the flipped predictions and the correlation with word frequency."""
    from ..scoring.formatting import format_interval, format_p_value
    from .terminal import print_table

    header = ["sentences", "word", "n", "before", "after", "relative change", "p paired, adj.", "p unpaired"]
    for group in document["result"]["groups"]:
        rows = [
            [
                row["frames"],
                row["word"],
                row["cases"],
                f"{row['before']:.4f}",
                f"{row['after']:.4f}",
                f"{100 * row['relative_change']:+.1f}%",
                format_p_value(row["p_adjusted"]),
                format_p_value(row["p_unpaired"]),
            ]
            for row in group["words"]
        ]
        neurons = ", ".join(f"{layer}:{index}" for layer, index in group["neurons"])
        print_table(f"{group['key']} ({operation} {neurons})", header, rows)
        flipped = group["flipped"]
        low, high = (None if flipped[bound] is None else 100 * flipped[bound] for bound in ("low", "high"))
        click.echo(
            f"Flipped predictions: {100 * flipped['value']:.0f}%{format_interval(low, high, '.0f')}"
            f" of {flipped['frames']} sentences; correct: {100 * group['right_before']:.0f}% before,"
            f" {100 * group['right_after']:.0f}% after"
        )
        for name, test in ((group["frequency"] or {}).get("correlation") or {}).items():
            if test["rho"] is not None:
                click.echo(
                    f"Correlation of change and preference for plural nouns, {name} sentences: rho {test['rho']:+.2f}"
                    f" (p {format_p_value(test['p'])}, {test['words']} words)"
                )
