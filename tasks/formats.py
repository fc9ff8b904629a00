"""Parses CSV as spreadsheets write it, YAML, and objects of JSON, and refuses repeated keys."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from typing import Any, NamedTuple

import yaml

from ..benchmark.core.errors import KnbenchError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
SEPARATOR_LINE = re.compile(r"\A\s*sep=.(?:\r\n|\n|\r)")
"""First line of CSV files for Excel. It is not a header."""


class RepeatedFieldError(ValueError):
    """An object of a JSON text has a field twice. The parser would keep the last value without a message."""


def unique_fields(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object: the ``object_pairs_hook`` of the JSON parser.

    Raises:
        RepeatedFieldError: a field occurs twice.
    """
    found = dict(fields)
    if len(found) < len(fields):
        name = next(name for name, count in Counter(name for name, _ in fields).items() if count > 1)
        raise RepeatedFieldError(f"an object has the field '{name}' twice")
    return found


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loads YAML like ``SafeLoader``, which keeps the last of two equal keys without a message."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        repeated = next((key for n, key in enumerate(keys) if key in keys[:n]), None)
        if repeated is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{repeated}' occurs twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: the text is not valid YAML or not valid Unicode, or a mapping has a key twice.
    """
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair; correct the character") from None
    return value


class CsvText(NamedTuple):
    """The stripped cells of a CSV text.

    Attributes:
        columns: the cells of the header.
        rows: the number of the last line, and the cells, of each row below the header that is not empty. The number of
            cells may differ from that of the header.
        separator: the name of the separator.
    """

    columns: list[str]
    rows: list[tuple[int, list[str]]]
    separator: str


def parse_csv(source: str, text: str) -> CsvText:
    """Parse a CSV text whose separator is a comma, a semicolon or a tab; the header decides which.

    White space around cells is removed, and empty rows are skipped. A separator may end the header alone, or the rows
    alone.

    Args:
        source: the source as error messages name it.
        text: the text, without a byte-order mark.

    Raises:
        KnbenchError: a quotation mark is not closed, or two columns have the same name.
    """
    text = SEPARATOR_LINE.sub("", text)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=header.count)  # the first of equals, hence the comma for a single column
    # The standard limit of 131,072 characters a cell is lower than the length of published passages.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for line in reader:
            cells = [cell.strip() for cell in line]
            if any(cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise KnbenchError(
            f"{source}: line {reader.line_num}: not valid CSV: {error}; a quotation mark is not closed, or the file "
            "is cut"
        ) from None
    columns = lines[0][1] if lines else []
    repeated = [name for name, count in Counter(columns).items() if name and count > 1]
    if repeated:
        raise KnbenchError(f"{source}: duplicate column '{repeated[0]}'; rename one of them")
    rows = [(number, _without_last_separator(cells, columns)) for number, cells in lines[1:]]
    return CsvText(columns, rows, SEPARATORS[separator])


def _without_last_separator(cells: list[str], columns: list[str]) -> list[str]:
    """Return the cells of a row as the header has them, where a separator ends one of the two and not the other."""
    if columns[len(cells) :] == [""]:
        return [*cells, ""]
    return cells[:-1] if len(cells) == len(columns) + 1 and not cells[-1] else cells
