"""Tables and progress for people, through rich. Tables go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from .criteria import CRITERIA
from .progress import Reporter

COMPOSITE_TITLES = {"score": "S", "extended_score": "S ext."}


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


def print_results(results: Sequence[Mapping[str, Any]], measure: str = "success") -> None:
    """Print one table a task: editors as rows, criteria as columns, one measure for all."""
    out = console()
    for task in dict.fromkeys(result["task"]["name"] for result in results):
        of_task = [result for result in results if result["task"]["name"] == task]
        present = {row["criterion"] for result in of_task for row in result["summary"]}
        columns = [c for c in [*CRITERIA, *COMPOSITE_TITLES] if c in present]
        protocol, model = of_task[0]["protocol"], of_task[0]["model"]
        notes = [f"{model['name']}", f"{protocol['regime']} edits", f"{protocol['cases']} cases", measure]
        split = protocol.get("split", "all")  # as results from before the split were taken
        notes += [] if split == "test" else [{"tune": "tuning cases only", "all": "tuning cases included"}[split]]
        notes += [f"limit {protocol['limit']}"] if protocol["limit"] else []
        notes += ["known only"] if protocol["known_only"] else []
        table = Table(title=f"{task}: {', '.join(notes)}", title_justify="left", header_style="bold")
        table.add_column("editor")
        for column in columns:
            table.add_column(COMPOSITE_TITLES.get(column, column), justify="right")
        table.add_column("s/edit", justify="right")
        table.add_column("failed", justify="right")
        for result in of_task:
            found = {row["criterion"]: row for row in result["summary"] if row["measure"] == measure}
            seconds = result["cost"]["edit_seconds"]
            table.add_row(
                result["editor"]["name"],
                *(_cell(found.get(column)) for column in columns),
                "" if seconds is None else f"{seconds:.2f}",
                str(result["records"]["failed"]),
            )
        out.print(table)
    out.print("Values are means over cases with 95% intervals. Higher is better.", style="dim")


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    value = f"{100 * row['value']:.0f}"
    return value if row["low"] is None else f"{value} [{100 * row['low']:.0f}-{100 * row['high']:.0f}]"


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

    def __exit__(self, *exc: object) -> None:
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
