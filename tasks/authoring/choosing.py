"""What the authoring scripts share: choosing new targets evenly, and writing a table back."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """Return the rows of a data file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a data file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows written to {path.name}")


def spread(rows: Sequence[Row], key: str, column: str, pool: Iterable[str], fits: Callable[[Row, str], bool]) -> None:
    """Fill a column with targets of a pool, each used about as often, ties and order decided by hash."""
    uses = dict.fromkeys(pool, 0)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row[key].encode()).hexdigest()):
        choices = [target for target in uses if fits(row, target)]
        row[column] = min(
            choices, key=lambda target: (uses[target], hashlib.sha256(f"{row[key]}:{target}".encode()).hexdigest())
        )
        uses[row[column]] += 1
