"""``knbench compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..core.errors import KnbenchError, unknown_name
from ..core.files import json_text
from ..results.comparison import KINDS, TaskComparison, case_by_case, compare_two, group_by_task, overall, ranking
from ..results.runs import find_runs
from ..scoring.criteria import CRITERIA, MEASURES
from ..scoring.summary import COMPOSITES

EXAMPLES = """
\b
Examples:
  knbench compare runs/first --editors rome,memit
  knbench compare runs/mine/rome runs/theirs/memit --measure generated --cases
  knbench compare runs/all                          # more than two: ranks
"""

TITLES = {"score": "S", "extended_score": "S ext."}


@click.command("compare", epilog=EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--editors", help="Editors, comma-separated. [default: all that FOLDERS hold]")
@click.option(
    "--measure",
    type=click.Choice([m.name for m in MEASURES.values() if m.higher_is_better]),
    default="success",
    show_default=True,
)
@click.option("--cases", is_flag=True, help="Of two editors, also list every case on which they differ.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of tables.")
def compare_command(folders: Sequence[Path], editors: str | None, measure: str, cases: bool, as_json: bool) -> None:
    """Compare methods on the same cases.

    FOLDERS are run folders, at any depth. Two editors: the difference of each criterion with its interval, an exact or
    permutation p-value, wins and losses by case, and McNemar's table. More: the means over all tasks, and for each task
    and criterion the ranks that the data leave open; editors that share their best rank are tied.
    """
    runs = find_runs(folders)
    known = sorted({run.result["editor"]["name"] for run in runs})
    names = list(dict.fromkeys(n.strip() for n in editors.split(",") if n.strip())) if editors else known
    for name in names:
        if name not in known:
            raise unknown_name("editor in these folders", name, known)
    if len(names) < 2:
        raise KnbenchError(f"a comparison needs two editors; these folders hold {', '.join(known)}")
    groups = group_by_task([run for run in runs if run.result["editor"]["name"] in names])
    if len(names) == 2:
        _show_two(groups, names[0], names[1], measure, cases, as_json)
    else:
        _show_ranks(groups, measure, as_json)


def _show_overall(rows: Sequence[Mapping[str, Any]], measure: str) -> None:
    """Print the means over tasks, facts apart from phenomena, where there is more than one task."""
    from .terminal import print_table

    scale, digits = (100, 0) if MEASURES[measure].share else (1, 2)
    for kind, title in KINDS.items():
        mine = [row for row in rows if row["kind"] == kind]
        tasks = max((row["tasks"] for row in mine), default=0)
        if tasks < 2:
            continue
        columns = list(dict.fromkeys(row["criterion"] for row in mine))
        cells: dict[str, dict[str, str]] = {}
        for row in mine:
            interval = (
                "" if row["low"] is None else f" [{scale * row['low']:.{digits}f}-{scale * row['high']:.{digits}f}]"
            )
            few = "" if row["tasks"] == tasks else f" ({row['tasks']} tasks)"
            cells.setdefault(row["editor"], {})[row["criterion"]] = f"{scale * row['value']:.{digits}f}{interval}{few}"
        body = [[editor, *(found.get(column, "") for column in columns)] for editor, found in cells.items()]
        print_table(f"{title}, {tasks} tasks: {measure}", ["editor", *columns], body)


def _show_two(groups: Sequence[TaskComparison], a: str, b: str, measure: str, cases: bool, as_json: bool) -> None:
    rows = compare_two(groups, a, b, measure)
    differing = case_by_case(groups, a, b, measure) if cases else []
    if as_json:
        found: dict[str, Any] = {"a": a, "b": b, "measure": measure, "rows": rows}
        click.echo(json_text({**found, "cases": differing} if cases else found), nl=False)
        return
    from .terminal import print_table

    scale, digits = (100, 0) if MEASURES[measure].share else (1, 3)
    header = ["task", "criterion", "cases", a, b, "difference", "p", "p adj.", "wins/losses/ties", "McNemar"]
    print_table(f"{a} against {b}: {measure}", header, [_cells(row, scale, digits) for row in rows])
    if cases:
        table = [[r["task"], r["criterion"], r["case"], f"{r['a']:.2f}", f"{r['b']:.2f}"] for r in differing]
        print_table("cases on which they differ", ["task", "criterion", "case", a, b], table)
    click.echo(
        "Differences have 95% intervals over shared cases; p by permutation within cases, adj. by Benjamini-Hochberg "
        "over these rows. McNemar: cases only the first gets right, only the second, and the exact p."
    )


def _cells(row: Mapping[str, Any], scale: int, digits: int) -> list[str]:
    def number(value: float, sign: str = "") -> str:
        return f"{scale * value:{sign}.{digits}f}"

    interval = "" if row["low"] is None else f" [{number(row['low'], '+')} to {number(row['high'], '+')}]"
    table = ""
    if row["p_mcnemar"] is not None:
        table = f"{row['only_a']} : {row['only_b']}, p {_p(row['p_mcnemar'])}"
    return [
        row["task"],
        row["criterion"],
        str(row["cases"]),
        number(row["a"]),
        number(row["b"]),
        number(row["difference"], "+") + interval,
        _p(row["p"]),
        _p(row["p_adjusted"]),
        f"{row['wins']}/{row['losses']}/{row['ties']}",
        table,
    ]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _show_ranks(groups: Sequence[TaskComparison], measure: str, as_json: bool) -> None:
    means = overall(groups, measure)
    found = {
        group.task: {name: rows for name in [*CRITERIA, *COMPOSITES] if (rows := ranking(group, name, measure))}
        for group in groups
    }
    if as_json:
        click.echo(json_text({"measure": measure, "tasks": found, "overall": means}), nl=False)
        return
    from .terminal import print_table

    _show_overall(means, measure)
    scale, digits = (100, 0) if MEASURES[measure].share else (1, 2)
    for task, tables in found.items():
        order = [
            row["editor"] for row in tables[next(n for n in ("extended_score", "score", *CRITERIA) if n in tables)]
        ]
        places = {name: {row["editor"]: row for row in rows} for name, rows in tables.items()}
        body = [
            [editor, *(_place(places[name].get(editor), scale, digits) for name in tables)]
            for editor in order
        ]  # fmt: skip
        print_table(
            f"{task}: {measure}, with the ranks that the data leave open",
            ["editor", *(TITLES.get(n, n) for n in tables)],
            body,
        )
    click.echo("In brackets: the best and the worst rank that an editor may have, at 95%. Equal best ranks are a tie.")


def _place(row: Mapping[str, Any] | None, scale: int, digits: int) -> str:
    if row is None:
        return ""
    ranks = str(row["best"]) if row["best"] == row["worst"] else f"{row['best']}-{row['worst']}"
    return f"{scale * row['value']:.{digits}f} ({ranks})"
