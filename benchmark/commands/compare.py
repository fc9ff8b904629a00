"""``knbench compare``: compare methods on the same cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from ..core.errors import KnbenchError, unknown_name
from ..core.files import json_text
from ..results.comparison import (
    KINDS,
    OverallRow,
    PairedRow,
    RankedMethod,
    TaskComparison,
    case_by_case,
    compare_two,
    group_by_task,
    incomplete_methods,
    overall,
    ranking,
)
from ..results.method_names import describe_differences, differing_settings, method_names
from ..results.runs import Run, find_runs, unfinished_runs
from ..scoring.criteria import CRITERIA, MEASURES
from ..scoring.formatting import format_p_value
from ..scoring.summary import COMPOSITES
from .edit_score_tables import edit_score_differences, show_differences, show_edit_scores, show_sensitivity
from .options import JSON_FLAG

EXAMPLES = """
\b
Examples:
  knbench compare runs/first --editors rome,memit
  knbench compare runs/mine/rome runs/theirs/memit --measure generated --cases
  knbench compare runs/layer-3 runs/layer-5         # one editor with two settings
  knbench compare runs/all                          # more than two editors: ranks
  knbench compare results --model smollm2-135m --regime single
"""

TITLES = {"score": "S", "extended_score": "S ext."}
"""Column titles of the composite scores."""


@click.command("compare", epilog=EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--editors", help="Comma-separated editor names. [default: all editors in FOLDERS]")
@click.option("--model", help="Only results of this model. [default: all; they must be of one model]")
@click.option(
    "--regime",
    type=click.Choice(["single", "batch", "sequential"]),
    help="Only results of this regime. [default: all; they must be of one regime]",
)
@click.option(
    "--measure",
    type=click.Choice([m.name for m in MEASURES.values() if m.higher_is_better]),
    help="Compare criteria by this measure. [default: the edit score; with two editors, also success]",
)
@click.option(
    "--sensitivity", is_flag=True, help="Show the order of methods under six variants of the edit score instead."
)
@click.option("--cases", is_flag=True, help="With two editors, also list every case on which they differ.")
@JSON_FLAG
def compare_command(
    folders: Sequence[Path],
    editors: str | None,
    model: str | None,
    regime: str | None,
    measure: str | None,
    sensitivity: bool,
    cases: bool,
    as_json: bool,
) -> None:
    """Compare methods on the same cases.

    FOLDERS are searched recursively for results. Prints edit scores with confidence intervals of the ranks: over the
    tasks of facts, over those of phenomena, over both, and for each task. With two editors, prints the differences of
    edit scores and of each criterion, with an exact or permutation p-value, the cases won and lost, and McNemar's
    table. With --measure, prints criteria instead of edit scores.

    Each configuration of an editor is a method of its own. Unfinished runs are named and left out.
    """
    runs = [
        run
        for run in find_runs(folders)
        if model in (None, run.result.model.name) and regime in (None, run.result.protocol.regime)
    ]
    if not runs:
        raise KnbenchError("no result is left; check --model and --regime, or leave them out")
    known = sorted({run.result.editor.name for run in runs})
    labels = method_names([run.result for run in runs])
    wanted = list(dict.fromkeys(n.strip() for n in _split_names(editors) if n.strip())) if editors else known
    for name in wanted:
        if name not in known and name not in labels:
            raise unknown_name("editor in these folders", name, known)
    chosen = [
        run for run, label in zip(runs, labels, strict=True) if run.result.editor.name in wanted or label in wanted
    ]
    names = _in_order(chosen, wanted)
    _note_left_out(folders, chosen)
    if len(names) < 2:
        raise KnbenchError(
            f"a comparison needs two editors, or two settings of one; these folders contain only: {', '.join(known)}"
        )
    groups = group_by_task(chosen)
    if sensitivity:
        show_sensitivity(groups, as_json=as_json)
    elif len(names) == 2:
        _show_two(groups, names[0], names[1], measure, cases, as_json)
    elif measure is None:
        show_edit_scores(groups, as_json=as_json)
    else:
        _show_ranks(groups, measure, as_json)


def _in_order(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """Return the names of the methods of some runs, in the order of the wanted editors or methods."""
    editors = {
        name: run.result.editor.name for run, name in zip(runs, method_names([r.result for r in runs]), strict=True)
    }
    return sorted(editors, key=lambda name: wanted.index(name if name in wanted else editors[name]))


def _split_names(text: str) -> list[str]:
    """Split at commas outside of parentheses.

    >>> _split_names("rome (layer=3, steps=5),memit")
    ['rome (layer=3, steps=5)', 'memit']
    """
    return re.split(r",(?![^(]*\))", text)


def _note_left_out(folders: Sequence[Path], runs: Sequence[Run]) -> None:
    """Name on stderr the unfinished runs, and the editors that have several settings."""
    for folder in unfinished_runs(folders):
        click.echo(f"note: {folder} is not finished and is left out", err=True)
    for editor in dict.fromkeys(run.result.editor.name for run in runs):
        different = differing_settings(run.result for run in runs if run.result.editor.name == editor)
        if different:
            click.echo(
                f"note: '{editor}' has several settings ({describe_differences(different)}); each is compared as a "
                "method of its own",
                err=True,
            )


def _show_two(
    groups: Sequence[TaskComparison], a: str, b: str, chosen: str | None, with_cases: bool, as_json: bool
) -> None:
    """Print the comparison of two editors."""
    measure = chosen or "success"
    differences = {} if chosen else edit_score_differences(groups, a, b)
    rows = compare_two(groups, a, b, measure)
    differing = case_by_case(groups, a, b, measure) if with_cases else []
    if as_json:
        document: dict[str, object] = {"a": a, "b": b, "measure": measure, "rows": [asdict(row) for row in rows]}
        if differences:
            document["edit_score"] = {name: asdict(row) for name, row in differences.items()}
        if with_cases:
            document["cases"] = [asdict(row) for row in differing]
        click.echo(json_text(document), nl=False)
        return
    from .terminal import print_table

    if differences:
        show_differences(differences, a, b)
    header = ["task", "criterion", "cases", a, b, "difference", "p", "p adj.", "wins/losses/ties", "McNemar"]
    share = MEASURES[measure].share
    print_table(f"{a} against {b}: {measure}", header, [_paired_cells(row, share) for row in rows])
    if with_cases:
        table = [[row.task, row.criterion, row.case, f"{row.a:.2f}", f"{row.b:.2f}"] for row in differing]
        print_table("cases on which they differ", ["task", "criterion", "case", a, b], table)
    click.echo(
        "Differences have 95% confidence intervals over the shared cases. p: permutation test within cases; p adj.: "
        "corrected over these rows (Benjamini-Hochberg). McNemar: number of cases that only the first editor gets "
        "right, number that only the second gets right, exact p."
    )


def _paired_cells(row: PairedRow, share: bool) -> list[str]:
    from .terminal import format_estimate, format_number

    mcnemar = "" if row.p_mcnemar is None else f"{row.only_a} : {row.only_b}, p {format_p_value(row.p_mcnemar)}"
    return [
        row.task,
        row.criterion,
        str(row.cases),
        format_number(row.a, share=share, digits=3),
        format_number(row.b, share=share, digits=3),
        format_estimate(row.difference, row.low, row.high, share=share, digits=3, signed=True),
        format_p_value(row.p),
        format_p_value(row.p_adjusted),
        f"{row.wins}/{row.losses}/{row.ties}",
        mcnemar,
    ]


def _show_ranks(groups: Sequence[TaskComparison], measure: str, as_json: bool) -> None:
    """Print the means over all tasks and the ranks on each task."""
    means = overall(groups, measure)
    rankings = {
        group.task: {name: rows for name in [*CRITERIA, *COMPOSITES] if (rows := ranking(group, name, measure))}
        for group in groups
    }
    if as_json:
        tasks = {
            task: {name: [asdict(row) for row in rows] for name, rows in by_criterion.items()}
            for task, by_criterion in rankings.items()
        }
        click.echo(json_text({"measure": measure, "tasks": tasks, "overall": [asdict(row) for row in means]}), nl=False)
        return
    from .terminal import print_table

    _show_overall(means, measure)
    for name, (count, total) in incomplete_methods(groups).items():
        click.echo(f"{name} has results on {count} of {total} tasks and is left out of means over tasks it lacks.")
    share = MEASURES[measure].share
    for task, by_criterion in rankings.items():
        main = next(name for name in ("extended_score", "score", *CRITERIA) if name in by_criterion)
        ranks = {name: {row.editor: row for row in rows} for name, rows in by_criterion.items()}
        body = [
            [row.editor, *(_rank_cell(ranks[name].get(row.editor), share) for name in by_criterion)]
            for row in by_criterion[main]
        ]
        header = ["editor", *(TITLES.get(name, name) for name in by_criterion)]
        print_table(f"{task}: {measure}, with 95% confidence intervals of the ranks", header, body)
    click.echo(
        "In brackets: the best and the worst rank of the 95% interval. Editors with the same best rank are tied."
    )


def _rank_cell(row: RankedMethod | None, share: bool) -> str:
    from .terminal import format_number

    if row is None:
        return ""
    ranks = str(row.best) if row.best == row.worst else f"{row.best}-{row.worst}"
    return f"{format_number(row.value, share=share)} ({ranks})"


def _show_overall(rows: Sequence[OverallRow], measure: str) -> None:
    """Print the means over tasks for each kind of task that has more than one task."""
    from .terminal import format_estimate, print_table

    share = MEASURES[measure].share
    for kind, title in KINDS.items():
        members = [row for row in rows if row.kind == kind]
        tasks = max((row.tasks for row in members), default=0)
        if tasks < 2:
            continue
        columns = list(dict.fromkeys(row.criterion for row in members))
        cells: dict[str, dict[str, str]] = {}
        for row in members:
            fewer = "" if row.tasks == tasks else f" ({row.tasks} tasks)"
            text = format_estimate(row.value, row.low, row.high, share=share)
            cells.setdefault(row.editor, {})[row.criterion] = text + fewer
        body = [[editor, *(found.get(column, "") for column in columns)] for editor, found in cells.items()]
        print_table(f"{title}, {tasks} tasks: {measure}", ["editor", *columns], body)
