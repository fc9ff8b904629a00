"""Tables and progress bars for the terminal, drawn with rich. Tables go to stdout, progress to stderr."""

from __future__ import annotations

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

from ..core.documents import Result, SummaryRow
from ..core.progress import Reporter
from ..scoring.criteria import MEASURES
from ..scoring.formatting import SPLIT_NOTES, format_drift, format_interval, format_p_value, format_regime
from ..scoring.protocols import DEFAULT, PROTOCOLS

FEW_CASES = 10
"""Below this number of cases, tables warn about wide intervals."""
PIPED_WIDTH = 160
"""Width in characters of tables that are piped, for which rich would assume 80 and fold columns."""
DRIFT_HEADER = ("editor", "task", "before", "after", "difference")
EFFECT_HEADER = ("criterion", "word", "cases", "before", "after", "relative change", "p paired, adj.", "p unpaired")


def console() -> Console:
    """Return a console for stdout, with :data:`PIPED_WIDTH` if stdout is not a terminal."""
    default = Console()
    return default if default.is_terminal else Console(width=PIPED_WIDTH)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table. None becomes an empty cell."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not str: rich would read "[MASK]" in a string as markup and drop it.
        table.add_row(*(Text("" if cell is None else _inline(cell)) for cell in row))
    console().print(table)


def print_card(card: Mapping[str, Any]) -> None:
    """Print a description: single values as lines, lists of mappings as tables."""
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
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def format_number(value: float, *, share: bool, digits: int = 2, signed: bool = False) -> str:
    """Format a number for a narrow table: shares as percent without decimals, others with ``digits`` decimals.

    >>> format_number(0.254, share=True), format_number(0.254, share=False), format_number(0.3, share=True, signed=True)
    ('25', '0.25', '+30')
    """
    return f"{_scale(share) * value:{_number_format(share, digits, signed)}}"


def format_estimate(
    value: float, low: float | None, high: float | None, *, share: bool, digits: int = 2, signed: bool = False
) -> str:
    """Format a value and its interval as :func:`format_number` does. A missing interval is left out.

    >>> format_estimate(0.5, 0.25, 0.75, share=True), format_estimate(0.5, None, None, share=True)
    ('50 [25-75]', '50')
    >>> format_estimate(0.5, -0.25, 1.25, share=False, digits=2, signed=True)
    '+0.50 [-0.25 to +1.25]'
    """
    number = format_number(value, share=share, digits=digits, signed=signed)
    if low is None or high is None:
        return number
    scale, spec = _scale(share), _number_format(share, digits, signed)
    return number + format_interval(scale * low, scale * high, spec, " to " if signed else "-")


def _scale(share: bool) -> int:
    return 100 if share else 1


def _number_format(share: bool, digits: int, signed: bool) -> str:
    return f"{'+' if signed else ''}.{0 if share else digits}f"


@dataclass(frozen=True)
class ResultTable:
    """A table of results as text.

    Attributes:
        title: task, model and settings that all rows share, and the protocol.
        header: names of the columns: the editor, the protocol's numbers, cost and failures.
        rows: one row of cells per editor.
        results: the results that the rows show, in their order.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    results: Sequence[Result]


def tabulate(results: Sequence[Result], protocol: str) -> list[ResultTable]:
    """Return one table per task, model and run settings, because numbers of different settings are not comparable."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(f"{result.task.name}: {', '.join(_settings_notes(result))}", []).append(result)
    return [_table_of(title, members, protocol) for title, members in groups.items()]


def _table_of(title: str, results: Sequence[Result], protocol: str) -> ResultTable:
    chosen = PROTOCOLS[protocol]
    summaries = [{(row.criterion, row.measure): row for row in result.summary} for result in results]
    columns = [
        column for column in chosen.columns if any((column.criterion, column.measure) in rows for rows in summaries)
    ]
    table_rows = []
    for result, rows in zip(results, summaries, strict=True):
        cells = [_summary_cell(rows.get((column.criterion, column.measure))) for column in columns]
        seconds = result.cost.edit_seconds
        cost = "" if seconds is None else f"{seconds:.2f}"
        table_rows.append([result.editor.name, *cells, cost, str(result.records.failed)])
    header = ["editor", *(column.name for column in columns), "s/edit", "failed"]
    return ResultTable(f"{title}, {chosen.title}", header, table_rows, results)


def _summary_cell(row: SummaryRow | None) -> str:
    if row is None:
        return "-"
    return format_estimate(row.value, row.low, row.high, share=MEASURES[row.measure].share)


def print_results(results: Sequence[Result], protocol: str = DEFAULT) -> None:
    """Print the tables of a protocol."""
    out = console()
    for found in tabulate(results, protocol):
        table = Table(title=found.title, title_justify="left", header_style="bold")
        for i, name in enumerate(found.header):
            table.add_column(name, justify="right" if i else "left")
        for row in found.rows:
            table.add_row(*row)
        out.print(table)
        if any(result.drift is not None for result in found.results):
            _print_drift(found.results)
    out.print(explanation(results), style="dim")


def markdown_results(results: Sequence[Result], protocol: str = DEFAULT) -> str:
    """Return the tables of a protocol in Markdown."""
    parts = []
    for found in tabulate(results, protocol):
        rule = ["---", *["---:"] * (len(found.header) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (found.header, rule, *found.rows)]
        parts.append(f"**{found.title}**\n\n" + "\n".join(lines) + "\n")
    return "\n".join([*parts, explanation(results) + "\n"])


def print_effects(results: Sequence[Result]) -> None:
    """Print one table per result of a linguistic task: how edits change the probability of words."""
    for result in results:
        rows = [
            [
                row.criterion,
                row.word or f"all {row.role}s",
                row.cases,
                f"{row.before:.4f}",
                f"{row.after:.4f}",
                f"{100 * row.relative_change:+.0f}%",
                format_p_value(row.p_adjusted),
                format_p_value(row.p_unpaired),
            ]
            for row in result.effect or ()
        ]
        if rows:
            print_table(f"{result.editor.name} on {result.task.name}: effect on words", EFFECT_HEADER, rows)
            flips = (row for row in result.summary if row.measure == "flipped")
            shares = ", ".join(f"{row.criterion} {_summary_cell(row)}" for row in flips)
            console().print(f"Categorical predictions that flip, %: {shares}", style="dim")


def explanation(results: Sequence[Result]) -> str:
    """Return how to read a table's numbers, with a warning if there are fewer than :data:`FEW_CASES` cases."""
    fewest = min((result.protocol.cases for result in results), default=0)
    warning = f" Few cases ({fewest}): the intervals are wide." if fewest < FEW_CASES else ""
    return f"Values are means over cases with 95% intervals. Higher is better.{warning}"


def _settings_notes(result: Result) -> list[str]:
    """Return the settings in which the results of one table agree."""
    protocol = result.protocol
    notes = [
        result.model.name,
        format_regime(protocol),
        f"{protocol.cases} cases",
        SPLIT_NOTES[protocol.split],
        "lite" if protocol.subset == "lite" else "",
        f"limit {protocol.limit}" if protocol.limit else "",
        "known only" if protocol.known_only else "",
    ]
    return [note for note in notes if note]


def _print_drift(results: Sequence[Result]) -> None:
    """Print the drift after the last edit: one row per editor and drift task."""
    rows = [
        [result.editor.name, row.name, row.before, row.after, row.difference]
        for result in results
        for row in format_drift(result.drift)
    ]
    print_table("drift (of perplexity, the difference is in nats per token)", DRIFT_HEADER, rows)


class ProgressReporter(Reporter):
    """A progress bar with the remaining time, on stderr."""

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
        if kind is not None:  # remove the bar, leaving only the error message
            self._progress.live.transient = True
        self._progress.stop()

    def begin(self, total: int) -> None:
        """Set the number of cases."""
        self._progress.update(self._bar, total=total)

    def doing(self, what: str) -> None:
        """Show the name of the current stage."""
        self._progress.update(self._bar, description=what)

    def advance(self, count: int = 1) -> None:
        """Add to the number of finished cases."""
        self._progress.advance(self._bar, count)

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a separate bar until the stage ends."""
        bar = self._progress.add_task(what, total=total)
        try:
            yield lambda: self._progress.advance(bar)
        finally:
            self._progress.remove_task(bar)
