"""Reads the data files of fact tasks: CSV, TSV and JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..benchmark.core.errors import KnbenchError
from .formats import parse_csv, unique_fields

Row = Mapping[str, str]


def read_table(path: Path, id_column: str, definition: Path) -> dict[str, Row]:
    """Return the rows of a data file by id. White space around cells is removed, and empty rows are skipped.

    The cells of a CSV file are separated by commas, semicolons or tabs. A byte-order mark is ignored.

    Args:
        path: a ``.jsonl`` file, or a ``.csv`` or ``.tsv`` file with a header.
        id_column: the column whose cells are unique.
        definition: the path of the task definition, for error messages.

    Raises:
        KnbenchError: the file cannot be read or is malformed, contains no rows, lacks the id column or repeats an id.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # not read_text, which changes line breaks inside of cells
    except OSError as error:
        raise KnbenchError(f"{definition}: facts.data: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KnbenchError(f"{definition}: facts.data: cannot read {path}: not UTF-8; save the file as UTF-8") from None
    rows = list(_json_lines(path, text)) if path.suffix == ".jsonl" else _csv_rows(path, text, id_column, definition)
    if not rows:
        raise KnbenchError(f"{path}: the file contains no rows; add one row for each fact")
    for number, row in enumerate(rows, start=1):
        if id_column not in row:
            raise _no_id_column(path, id_column, list(row), definition, f"row {number}: ")
        if not row[id_column]:
            raise KnbenchError(f"{path}: row {number}: the cell of column '{id_column}' is empty; add a unique id")
    repeated = [i for i, n in Counter(row[id_column] for row in rows).items() if n > 1]
    if repeated:
        raise KnbenchError(f"{path}: duplicate id '{repeated[0]}'; ids must be unique within a file")
    return {row[id_column]: row for row in rows}


def _csv_rows(path: Path, text: str, id_column: str, definition: Path) -> list[Row]:
    table = parse_csv(str(path), text)
    if table.columns and id_column not in table.columns:
        raise _no_id_column(path, id_column, table.columns, definition)
    for line, cells in table.rows:
        if len(cells) != len(table.columns):
            raise KnbenchError(
                f"{path}: line {line}: the number of cells differs from the header: {len(cells)} instead of "
                f"{len(table.columns)}; quote a cell that contains a {table.separator}"
            )
    return [dict(zip(table.columns, cells, strict=True)) for _, cells in table.rows]


def _no_id_column(path: Path, id_column: str, columns: list[str], definition: Path, where: str = "") -> KnbenchError:
    return KnbenchError(
        f"{path}: {where}no column '{id_column}'; add it, or change facts.id in {definition.name}; "
        f"columns: {', '.join(columns) or 'none'}"
    )


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines, which splits at U+2028 inside of cells
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_fields)
        except (ValueError, RecursionError) as error:
            raise KnbenchError(f"{path}: line {number}: not valid JSON: {error}") from None
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            raise KnbenchError(f"{path}: line {number}: expected a JSON object whose values are strings")
        try:
            "".join([*row, *row.values()]).encode()
        except UnicodeEncodeError:
            raise KnbenchError(
                f"{path}: line {number}: not valid Unicode: half of a surrogate pair; correct the character"
            ) from None
        yield {key: value.strip() for key, value in row.items()}
