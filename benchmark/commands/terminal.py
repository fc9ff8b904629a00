"""Tables and progress for people, through rich. Tables go to stdout, progress to stderr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..core.progress import Reporter
from ..scoring.criteria import MEASURES
from ..scoring.protocols import DEFAULT, PROTOCOLS

FEW = 10
DRIFT_HEADER = ("editor", "task", "before", "after", "difference")


def console() -> Console:
    """Return a console for stdout; text that is piped keeps a width that does not cut columns."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=160)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not str: rich would read "[MASK]" in a string as markup and drop it.
        table.add_row(*(Text("" if cell is None else _inline(cell)) for cell in row))
    console().print(table)


def print_card(card: Mapping[str, Any]) -> None:
    """Print a description: short values as lines, lists of like objects as tables."""
    out = console()
    tables = {}
    for key, value in card.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables[key] = value
        elif value not in ("", [], {}):
            out.print(Text.assemble((f"{key}: ", "bold"), _inline(value)))
    for key, rows in tables.items():
        header = list(dict.fromkeys(name for row in rows for name in row))
        print_table(key, header, [[row.get(name) for name in header] for row in rows])


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Tabulated:
    """A table of results as text: editors as rows, a protocol's numbers as columns."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    results: Sequence[Mapping[str, Any]]


def tabulate(results: Sequence[Mapping[str, Any]], protocol: str) -> list[Tabulated]:
    """Return one table per task, model and way of measuring."""
    chosen = PROTOCOLS[protocol]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(f"{result['task']['name']}: {', '.join(_notes(result))}", []).append(result)
    tables = []
    for title, members in groups.items():
        present = {(row["criterion"], row["measure"]) for result in members for row in result["summary"]}
        columns = [column for column in chosen.columns if (column.criterion, column.measure) in present]
        rows = []
        for result in members:
            found = {(row["criterion"], row["measure"]): row for row in result["summary"]}
            seconds = result["cost"]["edit_seconds"]
            cells = [_cell(found.get((column.criterion, column.measure))) for column in columns]
            cost = ["" if seconds is None else f"{seconds:.2f}", str(result["records"]["failed"])]
            rows.append([result["editor"]["name"], *cells, *cost])
        header = ["editor", *(column.name for column in columns), "s/edit", "failed"]
        tables.append(Tabulated(f"{title}, {chosen.title}", header, rows, members))
    return tables


def print_results(results: Sequence[Mapping[str, Any]], protocol: str = DEFAULT) -> None:
    """Print the tables of a protocol."""
    out = console()
    for found in tabulate(results, protocol):
        table = Table(title=found.title, title_justify="left", header_style="bold")
        for i, name in enumerate(found.header):
            table.add_column(name, justify="right" if i else "left")
        for row in found.rows:
            table.add_row(*row)
        out.print(table)
        if any("drift" in result for result in found.results):
            _print_drift(found.results)
    out.print(explanation(results), style="dim")


def markdown_results(results: Sequence[Mapping[str, Any]], protocol: str = DEFAULT) -> str:
    """Return the tables of a protocol in Markdown."""
    parts = []
    for found in tabulate(results, protocol):
        rule = ["---", *["---:"] * (len(found.header) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (found.header, rule, *found.rows)]
        parts.append(f"**{found.title}**\n\n" + "\n".join(lines) + "\n")
    return "\n".join([*parts, explanation(results) + "\n"])


def print_effects(results: Sequence[Mapping[str, Any]]) -> None:
    """Print, of linguistic tasks, what edits do to words: one table per result."""
    header = ["criterion", "word", "cases", "before", "after", "relative change", "p paired, adj.", "p unpaired"]
    for result in results:
        flips = {r["criterion"]: r for r in result["summary"] if r["measure"] == "flipped"}
        rows = [
            [
                row["criterion"],
                row["word"] or f"all {row['role']}s",
                row["cases"],
                f"{row['before']:.4f}",
                f"{row['after']:.4f}",
                f"{100 * row['relative_change']:+.0f}%",
                format_p_value(row["p_adjusted"]),
                format_p_value(row["p_unpaired"]),
            ]
            for row in result.get("effect", ())
        ]
        if rows:
            print_table(f"{result['editor']['name']} on {result['task']['name']}: effect on words", header, rows)
            shares = ", ".join(f"{name} {_cell(row)}" for name, row in flips.items())
            console().print(f"Categorical predictions that flip, %: {shares}", style="dim")


def format_p_value(p: float | None) -> str:
    """Format a p-value with three decimals. None becomes an empty string.

    >>> format_p_value(0.0421), format_p_value(0.00002)
    ('0.042', '<.001')
    """
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def format_interval(low: float | None, high: float | None, spec: str = ".2f", separator: str = "-") -> str:
    """Format an interval in brackets, with a leading space. A missing bound gives an empty string.

    >>> format_interval(0.25, 0.5), format_interval(-1, 1, "+.0f", " to ")
    (' [0.25-0.50]', ' [-1 to +1]')
    """
    return "" if low is None or high is None else f" [{low:{spec}}{separator}{high:{spec}}]"


def explanation(results: Sequence[Mapping[str, Any]]) -> str:
    """Say how to read a table's numbers."""
    fewest = min((result["protocol"]["cases"] for result in results), default=0)
    few = f" Few cases ({fewest}): the intervals are wide." if fewest < FEW else ""
    return f"Values are means over cases with 95% intervals. Higher is better.{few}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Say in words what must agree for two results to stand in one table."""
    protocol = result["protocol"]
    notes = [result["model"]["name"], regime_note(protocol), f"{protocol['cases']} cases"]
    split = protocol.get("split", "all")  # as results from before the split were taken
    notes += [] if split == "test" else [{"tune": "tuning cases only", "all": "tuning cases included"}[split]]
    notes += ["lite"] if protocol.get("subset") == "lite" else []
    notes += [f"limit {protocol['limit']}"] if protocol["limit"] else []
    notes += ["known only"] if protocol["known_only"] else []
    return notes


def regime_note(protocol: Mapping[str, Any]) -> str:
    """Say how edits meet."""
    if protocol["regime"] == "batch":
        return f"batches of {protocol['batch_edits']} edits"
    if protocol["regime"] == "sequential":
        return f"after {protocol['cases']} sequential edits"
    return "single edits"


def _print_drift(results: Sequence[Mapping[str, Any]]) -> None:
    """Print what the edits changed that they are not about: one row per drift task and editor."""
    rows = []
    for result in results:
        for task in result.get("drift", {"tasks": []})["tasks"]:
            for point in task["points"][-1:]:
                interval = format_interval(point["low"], point["high"], "+.3f", " to ")
                before, after = task["before"], task["before"] + point["difference"]
                if task["metric"] == "nll":  # people know perplexity
                    before, after = math.exp(before), math.exp(after)
                name = task["task"] if task["metric"] in ("nll", "acc") else f"{task['task']} ({task['metric']})"
                difference = f"{point['difference']:+.3f}{interval}"
                rows.append([result["editor"]["name"], name, _plain(before), _plain(after), difference])
    print_table("drift (of perplexity, the difference is in nats per token)", DRIFT_HEADER, rows)


def _plain(value: float) -> str:
    return f"{value:.3f}" if value < 1e4 else f"{value:.2g}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    scale, digits = (100, 0) if MEASURES[row["measure"]].share else (1, 2)
    value = f"{scale * row['value']:.{digits}f}"
    if row["low"] is None:
        return value
    return value + format_interval(scale * row["low"], scale * row["high"], f".{digits}f")


class ProgressReporter(Reporter):
    """A progress bar with the time left, on stderr."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar = self._progress.add_task("loading", total=None)

    def __enter__(self) -> ProgressReporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None:  # the complaint shall stand alone
            self._progress.live.transient = True
        self._progress.stop()

    def begin(self, total: int) -> None:
        """Set how many cases there are."""
        self._progress.update(self._bar, total=total)

    def doing(self, what: str) -> None:
        """Show the stage."""
        self._progress.update(self._bar, description=what)

    def advance(self, count: int = 1) -> None:
        """Move on."""
        self._progress.advance(self._bar, count)

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar of its own, gone when the stage is over."""
        bar = self._progress.add_task(what, total=total)
        try:
            yield lambda: self._progress.advance(bar)
        finally:
            self._progress.remove_task(bar)
