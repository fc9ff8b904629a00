"""Tables and progress bars for the terminal, drawn with rich. Tables go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich import box
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

from ..core.printable import printable
from ..core.progress import Reporter
from ..scoring.formatting import format_interval

PIPED_WIDTH = 160
"""Width in characters of tables that are piped, for which rich would assume 80 and fold columns."""


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


LISTING_WIDTH = 80
"""Largest width in characters of a listing that is piped."""


def print_listing(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows without a frame. Long cells are wrapped, except those of the first column.

    Args:
        title: the heading.
        rows: values by column, the same columns in each row.
    """
    click.echo(printable(title))
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    for n, name in enumerate(rows[0]):
        numbers = all(isinstance(row[name], int) for row in rows)
        table.add_column(Text(name), no_wrap=n == 0, overflow="fold", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(_inline(cell)) for cell in row.values()))
    wide = Console()
    (wide if wide.is_terminal else Console(width=LISTING_WIDTH)).print(table)


def print_compact_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table without a frame. The columns ``editor`` and ``over`` are aligned to the left."""
    table = Table(
        title=Text(title),
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for name in header:
        table.add_column(Text(name), justify="left" if name in ("editor", "over") else "right")
    for row in rows:
        table.add_row(*map(Text, row))
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


class ProgressReporter(Reporter):
    """A progress bar with the remaining time, on stderr.

    Args:
        transient: whether the bar disappears at the end.
    """

    def __init__(self, *, transient: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=transient,
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
