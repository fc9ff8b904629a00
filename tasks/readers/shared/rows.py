"""Loads the records of a data set from a local file or the Hugging Face Hub.

Local JSON and JSONL files are parsed here: the JSON reader of the ``datasets`` library rejects a whole file because of
one broken line. All other sources (Hub ids, Parquet, CSV) are loaded through the ``datasets`` library. No pickle is
loaded and no code from a data set is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ....benchmark.core.errors import KnbenchError
from .skips import SkipReport, SourceLocation

TABLE_FORMATS = {".parquet": "parquet", ".csv": "csv"}
SUFFIXES = (".jsonl", ".json", *TABLE_FORMATS)
BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One parsed record of a data set."""

    location: SourceLocation
    value: dict[str, Any]


def load_document(source: str) -> Any:
    """Return the JSON value of a local file, or of a file on the Hub (``owner/name:path/in/repository.json``).

    Raises:
        KnbenchError: the file does not exist or is not valid JSON.
    """
    path = Path(source)
    if path.is_file():
        content = _read_bytes(path)
    elif is_hub_id(source) and ":" in source:
        repository, file = source.split(":", 1)
        # Loaded as one text: the JSON reader of the library rejects files in which a field changes its type.
        options = {"data_files": f"hf://datasets/{repository}/{file}", "sample_by": "document", "split": "train"}
        content = "\n".join(_load_dataset(source, "text", **options)["text"]).encode()
    else:
        raise source_not_found(source)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise KnbenchError(f"{source}: not valid JSON: {error}; download the file again") from None


def load_rows(source: str, report: SkipReport, config: str | None = None) -> list[Row]:
    """Return the records of a file or of a data set on the Hub.

    Args:
        source: a .jsonl, .json, .parquet or .csv file, a Hub id, or ``owner/name:path/in/repository.json``.
        report: receives the lines and entries that are not JSON objects.
        config: configuration of the data set on the Hub. All its splits are read.

    Raises:
        KnbenchError: the source does not exist or has an unsupported format.
    """
    path = Path(source)
    if path.is_file() and path.suffix in TABLE_FORMATS:
        table = _load_dataset(source, TABLE_FORMATS[path.suffix], data_files=str(path), split="train")
        return _to_rows(table, report, "row")
    if path.is_file() and (path.suffix != ".json" or _is_json_lines(path)):
        return list(_parse_lines(_read_bytes(path), report))
    if path.is_file() or ":" in source or not is_hub_id(source):
        document = load_document(source)
        return _to_rows(document if isinstance(document, list) else [document], report, "entry")
    splits = _load_dataset(source, source, name=config)
    return _to_rows((row for split in splits for row in splits[split]), report, "row")


def _to_rows(values: Iterable[Any], report: SkipReport, unit: str) -> list[Row]:
    rows = []
    for index, value in enumerate(values):
        location = SourceLocation(index, f"{unit} {index + 1}")
        if isinstance(value, dict):
            rows.append(Row(location, value))
        else:
            report.skip(location, "not a JSON object")
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KnbenchError(f"{path}: cannot read the file: {error.strerror}") from None


def _is_json_lines(path: Path) -> bool:
    """Return whether a .json file has one JSON object per line, as some published files do."""
    lines = [line for line in _read_bytes(path).removeprefix(BOM).splitlines() if line.strip()]
    try:
        return len(lines) > 1 and isinstance(json.loads(lines[0]), dict)
    except (ValueError, RecursionError):
        return False


def _parse_lines(content: bytes, report: SkipReport) -> Iterator[Row]:
    for index, line in enumerate(content.removeprefix(BOM).split(b"\n")):
        if not line.strip():
            continue
        location = SourceLocation(index, f"line {index + 1}")
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            report.skip(location, "not UTF-8")
        except (ValueError, RecursionError):
            report.skip(location, "not JSON")
        else:
            if isinstance(value, dict):
                yield Row(location, value)
            else:
                report.skip(location, "not a JSON object")


def is_hub_id(source: str) -> bool:
    """Return whether a source has the form ``owner/name`` or ``owner/name:path/in/repository.json``.

    The function does not test whether a local file or folder of that name exists.
    """
    repository, _, file = source.partition(":")
    match = re.fullmatch(r"\w[\w.-]*/[\w.-]+", repository)
    return match is not None and (bool(file) or not repository.endswith(SUFFIXES))


def _load_dataset(source: str, *args: str, **options: Any) -> Any:
    import datasets  # imported here because the import is slow and local JSON does not need it

    try:
        return datasets.load_dataset(*args, **options)
    except Exception as error:  # the library and the Hub client raise many exception types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = (
            "download the file again"
            if Path(source).exists()
            else "no local file or folder has this name: check the name and the network, or give the path of a copy"
        )
        raise KnbenchError(f"cannot read data set '{source}': {reason}; {advice}") from None


def source_not_found(source: str) -> KnbenchError:
    """Return the error for a source that is neither an existing path nor a usable Hub id."""
    return KnbenchError(f"no file or folder '{source}'; give the path of a local copy or a Hub id such as owner/name")


def resolve_file(source: str, reader: str) -> str:
    """Return the only data file of ``source`` if it is a local folder, and ``source`` unchanged otherwise.

    Raises:
        KnbenchError: the folder has no data file or more than one.
    """
    folder = Path(source)
    if not folder.is_dir():
        return source
    candidates = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(candidates) == 1:
        return str(candidates[0])
    names = ", ".join(path.name for path in candidates[:8]) or "none"
    raise KnbenchError(
        f"{folder}: {reader} needs exactly one data file ({', '.join(SUFFIXES)}), found: {names}; give one file"
    )
