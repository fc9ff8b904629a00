"""Tables of edit scores of several methods over tasks, for ``knbench compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import click

from ..core.files import json_text
from ..core.schema import TaskKind
from ..results.comparison import KINDS, TaskComparison, incomplete_methods
from ..results.edit_scores import (
    ScoreDifference,
    ScoredMethod,
    complete_methods,
    format_rank,
    rank_by_edit_score,
    score_difference,
)
from ..results.sensitivity import VariantOrder, orders
from ..scoring.edit_score import FAMILIES, CaseValues
from ..scoring.formatting import SCORE_EXPLANATION


def edit_score_rankings(groups: Sequence[TaskComparison]) -> dict[str, list[ScoredMethod]]:
    """Return methods ordered by the edit score: over all tasks, over the tasks of each kind, and for each task.

    Means over tasks exist where there are several tasks. They leave out methods that lack one of them.

    Returns:
        Rows by the name of the table: ``together``, ``facts``, ``phenomena`` or the name of a task.
    """
    found = {name: rank_by_edit_score(complete_methods(tasks)) for name, tasks in _over_tasks(groups).items()}
    found |= {group.task: rank_by_edit_score([group.case_values]) for group in groups}
    return {name: rows for name, rows in found.items() if rows}


def edit_score_differences(groups: Sequence[TaskComparison], a: str, b: str) -> dict[str, ScoreDifference]:
    """Return the differences of two methods' edit scores, by the names of :func:`edit_score_rankings`."""
    both = [group for group in groups if {a, b} <= set(group.runs)]
    tables: dict[str, Sequence[Mapping[str, CaseValues]]] = {**_over_tasks(both)}
    tables |= {group.task: [group.case_values] for group in both}
    found = {name: score_difference(tasks, a, b) for name, tasks in tables.items()}
    return {name: row for name, row in found.items() if row is not None}


def _over_tasks(groups: Sequence[TaskComparison]) -> dict[str, list[Mapping[str, CaseValues]]]:
    kinds: dict[TaskKind, list[TaskComparison]] = {}
    for group in groups:
        kinds.setdefault(group.kind, []).append(group)
    tables: dict[str, list[TaskComparison]] = {"together": list(groups)} if len(kinds) > 1 else {}
    tables |= {KINDS[kind]: members for kind, members in kinds.items() if len(members) > 1}
    return {name: [group.case_values for group in members] for name, members in tables.items()}


def show_edit_scores(groups: Sequence[TaskComparison], *, as_json: bool) -> None:
    """Print the edit scores of several methods."""
    rankings = edit_score_rankings(groups)
    if as_json:
        click.echo(
            json_text({"edit_score": {name: [asdict(row) for row in rows] for name, rows in rankings.items()}}),
            nl=False,
        )
        return
    from .terminal import print_compact_table

    for name, rows in rankings.items():
        families = [family for family in FAMILIES if any(family in row.families for row in rows)]
        header = ["rank", "editor", "edit score", "gain", "kept", *families]
        print_compact_table(_title(name, rows), header, [_cells(row, families) for row in rows])
    for method, (count, total) in incomplete_methods(groups).items():
        click.echo(f"{method} has results on {count} of {total} tasks and is left out of means over tasks it lacks.")
    click.echo(f"{SCORE_EXPLANATION}\nRank: the best and the worst rank of the 95% interval.")


def _title(name: str, rows: Sequence[ScoredMethod]) -> str:
    tasks = f"{rows[0].tasks} tasks, " if rows[0].tasks > 1 else ""
    return f"{name}: {tasks}{rows[0].cases} cases"


def _cells(row: ScoredMethod, families: Sequence[str]) -> list[str]:
    from .terminal import format_estimate, format_number

    values = [row.gain, row.preservation, *(row.families.get(family) for family in families)]
    return [
        format_rank(row),
        row.method,
        format_estimate(row.value, row.low, row.high, share=True),
        *("-" if value is None else format_number(value, share=True) for value in values),
    ]


def show_differences(differences: Mapping[str, ScoreDifference], a: str, b: str) -> None:
    """Print the differences of two methods' edit scores, with intervals."""
    from .terminal import format_estimate, format_number, print_compact_table

    rows = [
        [
            name,
            str(row.cases),
            format_number(row.a, share=True),
            format_number(row.b, share=True),
            format_estimate(row.difference, row.low, row.high, share=True, signed=True),
        ]
        for name, row in differences.items()
    ]
    print_compact_table(f"{a} against {b}: edit score", ["over", "cases", a, b, "difference"], rows)


def show_sensitivity(groups: Sequence[TaskComparison], *, as_json: bool) -> None:
    """Print the scores of methods under the variants of the edit score, with rank correlations."""
    found = orders(groups)
    if as_json:
        click.echo(json_text({"variants": [asdict(row) for row in found]}), nl=False)
        return
    from .terminal import format_number, print_compact_table

    methods = list(found[0].scores)
    letters = [chr(ord("A") + number) for number in range(len(found))]
    rows = [
        [method, *(f"{format_number(row.scores[method], share=True)} ({_place(row, method)})" for row in found)]
        for method in methods
    ]
    for name in ("spearman", "kendall"):
        values = [getattr(row, name) for row in found]
        rows.append([f"{name.capitalize()}'s correlation with A", *("-" if v is None else f"{v:.2f}" for v in values)])
    print_compact_table("edit score and its variants, with the place in the order", ["editor", *letters], rows)
    for letter, row in zip(letters, found, strict=True):
        click.echo(f"{letter}: {row.variant}")


def _place(row: VariantOrder, method: str) -> int:
    return 1 + sum(value > row.scores[method] for value in row.scores.values())
