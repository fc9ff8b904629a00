"""Parses the records of JSON, JSON Lines and CSV text. The content decides the format, not the ending of the file."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from ....benchmark.core.errors import KnbenchError
from ...formats import RepeatedFieldError, parse_csv, unique_fields
from .skips import SkipReport, SourceLocation

LINE_BREAK = re.compile(rb"\r\n|\n|\r")
"""Line breaks of JSON Lines. U+2028 and U+0085 are ordinary characters of a JSON string."""

SEPARATOR = re.compile(r"[\s,]*")
LINES_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
WRAPPERS = ("data", "rows", "records", "examples", "entries", "items", "instances", "edits")
"""Keys of an object under which files keep their list of records."""

Located = tuple[SourceLocation, Any]


def parse_json(source: str, content: bytes) -> Any:
    """Return the value of a JSON text. Numbers with a fraction are returned as written, as strings.

    Raises:
        KnbenchError: the text is not UTF-8 or not one JSON value, is cut, or has an object with a repeated field.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KnbenchError(f"{source}: not UTF-8 text (byte {error.start + 1}); convert the file to UTF-8") from None
    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise KnbenchError(
                f"{source}: the file holds several JSON values (JSON Lines), one was expected; check that it is the "
                "right file"
            ) from None
        cut = "the file is cut: " if _is_cut(text, error) else ""
        raise KnbenchError(f"{source}: {cut}not valid JSON: {error}; download the file again") from None
    except RepeatedFieldError as error:
        raise KnbenchError(f"{source}: {error}; remove or rename one of them") from None
    except (ValueError, RecursionError) as error:
        raise KnbenchError(f"{source}: not valid JSON: {error}; download the file again") from None


def parse_records(source: str, content: bytes, report: SkipReport) -> list[Located]:
    """Return the records of a JSON or JSON Lines text.

    The text is a list of records, an object with one list of records (``{"data": [...]}``), an object of records by
    key, one record, or a sequence of records: one per line, or one after another.

    Args:
        source: the source as error messages name it.
        content: the text, without a byte-order mark.
        report: receives the lines that are not JSON.

    Raises:
        KnbenchError: the text is neither JSON nor JSON Lines, has an object with a repeated field, or holds columns or
            several lists instead of one list of records.
    """
    lines = LINE_BREAK.split(content)
    filled = [line for line in lines if line.strip()]
    start = content.lstrip()[:1]
    if start != b"[" and (start != b"{" or (len(filled) > 1 and _is_object(filled[0]))):
        return _parse_lines(lines, report)
    try:
        value = parse_json(source, content)
    except KnbenchError:
        values = _sequence(content) if start == b"{" else None
        if values is not None:
            return [(SourceLocation(i, f"entry {i + 1}"), entry) for i, entry in enumerate(values)]
        if start == b"{" and len(filled) > 1 and (source.endswith(LINES_SUFFIXES) or any(map(_is_object, filled))):
            return _parse_lines(lines, report)
        raise
    return _unwrap(source, value)


def parse_table(source: str, content: bytes, report: SkipReport) -> list[Located]:
    """Return the rows of a CSV text as objects of stripped strings. The separator is a comma, a semicolon or a tab.

    All cells are read as text: "None", "NA", "True" and "1999" are possible answers. Empty cells are left out. Cells
    that hold a JSON or Python list or object are parsed.

    Args:
        source: the source as error messages name it.
        content: the text, without a byte-order mark.
        report: receives the rows that have another number of cells than the header.

    Raises:
        KnbenchError: the text is not UTF-8, a quotation mark is not closed, or two columns have the same name.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KnbenchError(f"{source}: not UTF-8 text (byte {error.start + 1}); convert the file to UTF-8") from None
    table = parse_csv(source, text)
    found: list[Located] = []
    for index, (_, cells) in enumerate(table.rows):
        location = SourceLocation(index, f"row {index + 1}")
        if len(cells) != len(table.columns):
            report.skip(location, "row with another number of cells than the header")
            continue
        found.append((location, {name: _cell(cell) for name, cell in zip(table.columns, cells, strict=True) if cell}))
    return found


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=str, object_pairs_hook=unique_fields)


def _is_object(line: bytes) -> bool:
    """Return whether a line is a JSON object, which may be followed by the comma of a list."""
    try:
        return isinstance(_loads(line.decode("utf-8").strip().removesuffix(",")), dict)
    except (ValueError, RecursionError):
        return False


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Return whether the text ends inside a value: the parser misses something at its end."""
    rest = text[error.pos :].rstrip()
    literals = ("true", "false", "null", "NaN", "-")
    return not rest or error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in literals)


def _parse_lines(lines: list[bytes], report: SkipReport) -> list[Located]:
    found: list[Located] = []
    last = max((index for index, line in enumerate(lines) if line.strip()), default=0)
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        location = SourceLocation(index, f"line {index + 1}")
        try:
            text = line.decode("utf-8").strip().removesuffix(",")
            found.append((location, _loads(text)))
        except UnicodeDecodeError:
            report.skip(location, "not UTF-8")
        except json.JSONDecodeError as error:
            cut = index == last and text[:1] == "{" and _is_cut(text, error)
            report.skip(location, "not JSON: the file is cut inside its last line" if cut else "not JSON")
        except RepeatedFieldError:
            report.skip(location, "an object has a field twice")
        except (ValueError, RecursionError):
            report.skip(location, "not JSON")
    return found


def _unwrap(source: str, value: Any) -> list[Located]:
    """Return the records of a JSON value: of a list, or of an object that contains records.

    Raises:
        KnbenchError: an object has several lists of records, or holds columns.
    """
    if isinstance(value, list):
        # The interface of the Hub wraps each record: {"row_idx": 0, "row": {...}}.
        records = [v["row"] if isinstance(v, dict) and isinstance(v.get("row"), dict) else v for v in value]
        return [(SourceLocation(i, f"entry {i + 1}"), entry) for i, entry in enumerate(records)]
    if not isinstance(value, dict) or not value:
        return [(SourceLocation(0, "entry 1"), value)]
    if _holds_columns(value):
        raise KnbenchError(
            f"{source}: the file holds columns ({', '.join(list(value)[:5])}), a list of records was expected; save it "
            "by rows, in pandas with to_json(path, orient='records')"
        )
    if all(isinstance(entry, dict) for entry in value.values()):
        return [(SourceLocation(i, f"entry '{key}'"), entry) for i, (key, entry) in enumerate(value.items())]
    lists = [key for key, entry in value.items() if _is_record_list(entry)]
    wrapped = [key for key in lists if key in WRAPPERS] or (lists if len(lists) == len(value) else [])
    if len(wrapped) > 1:
        raise KnbenchError(
            f"{source}: one object with several lists ({', '.join(wrapped)}), a list of records was expected; save "
            "the list to read as a file"
        )
    return _unwrap(source, value[wrapped[0]]) if wrapped else [(SourceLocation(0, "entry 1"), value)]


def _holds_columns(value: dict[str, Any]) -> bool:
    """Return whether an object holds the columns of a table: lists of one length, or objects by row number.

    These are the forms of ``DataFrame.to_dict("list")`` and of ``DataFrame.to_json()`` with the default orientation and
    with "split". ParaRel's lists of bags have no list of single values.
    """
    columns = list(value.values())
    if value.keys() == {"columns", "index", "data"}:
        return True
    if len(columns) > 1 and all(isinstance(column, list) for column in columns):
        lengths = {len(column) for column in columns}
        return len(lengths) == 1 and any(column and not _nested(column) for column in columns)
    if len(columns) > 1 and all(isinstance(column, dict) for column in columns):
        return all(column and column.keys() == columns[0].keys() and _row_numbers(column) for column in columns)
    return False


def _nested(column: list[Any]) -> bool:
    return any(isinstance(cell, list | dict) for cell in column)


def _row_numbers(column: dict[str, Any]) -> bool:
    return all(name.isdecimal() for name in column)


def _is_record_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _sequence(content: bytes) -> list[Any] | None:
    """Return JSON objects that follow one another, separated by white space or commas; None for any other text."""
    decoder = json.JSONDecoder(parse_float=str, object_pairs_hook=unique_fields)
    text = content.decode("utf-8", "replace").strip()
    values, position = [], 0
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        values.append(value)
        position = _match_end(SEPARATOR, text, position)
    return values


def _match_end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _cell(text: str) -> Any:
    """Return a cell: the list or object that its text denotes, or the text itself."""
    if text[:1] + text[-1:] not in ("{}", "[]"):
        return text
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
