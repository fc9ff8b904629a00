"""Functions shared by the authoring scripts: reading and writing tables, and drawing balanced new targets."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a CSV file with the given columns, and print the number of rows."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows written to {path.name}")


def draw_balanced(
    rows: Sequence[Row], key: str, column: str, pool: Iterable[str], accept: Callable[[Row, str], bool]
) -> None:
    """Fill a column with targets from a pool, each used about equally often.

    Hashes of the keys determine the order of the rows and resolve ties, which makes the result reproducible.

    Args:
        rows: the rows, changed in place.
        key: the column that identifies a row.
        column: the column to fill.
        pool: the targets.
        accept: returns whether a row may get a target.
    """
    uses = dict.fromkeys(pool, 0)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row[key].encode()).hexdigest()):
        choices = [target for target in uses if accept(row, target)]
        row[column] = min(
            choices, key=lambda target: (uses[target], hashlib.sha256(f"{row[key]}:{target}".encode()).hexdigest())
        )
        uses[row[column]] += 1
