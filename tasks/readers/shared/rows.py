"""Loads the records of a data set from a local file or the Hugging Face Hub.

JSON, JSON Lines and CSV are parsed by :mod:`.parsing`: the readers of the ``datasets`` library reject a whole JSON file
because of one broken line, and guess the types of CSV cells ("NA" becomes a missing value). Parquet and whole data sets
of the Hub are loaded through the ``datasets`` library. No pickle is loaded and no code from a data set is executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ....benchmark.core.errors import KnbenchError
from .files import BOM, SUFFIXES, TABLE_SUFFIXES, check_content, check_parquet, data_suffix, read_data
from .parsing import Located, parse_json, parse_records, parse_table
from .skips import SkipReport, SourceLocation


class Row(NamedTuple):
    """One parsed record of a data set."""

    location: SourceLocation
    value: dict[str, Any]


def load_document(source: str) -> Any:
    """Return the JSON value of a local file, or of a file on the Hub (``owner/name:path/in/repository.json``).

    Raises:
        KnbenchError: the file does not exist or is not valid JSON.
    """
    return parse_json(source, _content(source))


def load_text(source: str) -> str:
    """Return the text of a local file, or of a file on the Hub (``owner/name:path/in/repository.txt``).

    Raises:
        KnbenchError: the file does not exist or is not UTF-8 text.
    """
    content = _content(source)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise KnbenchError(f"{source}: not UTF-8 text (byte {error.start + 1}); convert the file to UTF-8") from None


def load_rows(source: str, report: SkipReport, config: str | None = None) -> list[Row]:
    """Return the records of a file or of a data set on the Hub.

    Args:
        source: a file with one of the endings in SUFFIXES, a Hub id, or ``owner/name:path/in/repository.json``.
        report: receives the lines and entries that are not JSON objects.
        config: configuration of the data set on the Hub. All its splits are read.

    Raises:
        KnbenchError: the source does not exist or has an unsupported format.
    """
    path = Path(source)
    suffix = data_suffix(Path(source))
    if not path.is_file() and is_hub_id(source) and ":" not in source:
        splits = _load_dataset(source, source, name=config)
        return _to_rows(_located(row for split in splits for row in splits[split]), report)
    if suffix == ".parquet":
        if path.is_file():
            check_parquet(path)
            file = str(path)
        elif is_hub_id(source):
            file = _hub_url(source)
        else:
            raise source_not_found(source)
        return _to_rows(_located(_load_dataset(source, "parquet", data_files=file, split="train")), report)
    content = _content(source)
    parse = parse_table if suffix in TABLE_SUFFIXES else parse_records
    return _to_rows(parse(source, content, report), report)


def _content(source: str) -> bytes:
    """Return the bytes of a local text file, or of a text file on the Hub."""
    path = Path(source)
    if path.is_file():
        return read_data(path)
    if not is_hub_id(source) or ":" not in source:
        raise source_not_found(source)
    # Loaded as one text: the JSON reader of the library rejects files in which a field changes its type.
    options = {"data_files": _hub_url(source), "sample_by": "document", "split": "train"}
    content = "\n".join(_load_dataset(source, "text", **options)["text"]).encode()
    check_content(source, content)
    return content.removeprefix(BOM)


def _hub_url(source: str) -> str:
    repository, file = source.split(":", 1)
    return f"hf://datasets/{repository}/{file}"


def _located(values: Iterable[Any]) -> list[Located]:
    return [(SourceLocation(index, f"row {index + 1}"), value) for index, value in enumerate(values)]


def _to_rows(values: Iterable[Located], report: SkipReport) -> list[Row]:
    rows = []
    for location, value in values:
        if isinstance(value, dict):
            rows.append(Row(location, value))
        else:
            report.skip(location, "not a JSON object")
    return rows


def is_hub_id(source: str) -> bool:
    """Return whether a source has the form ``owner/name`` or ``owner/name:path/in/repository.json``.

    The function does not test whether a local file or folder of that name exists.
    """
    repository, _, file = source.partition(":")
    match = re.fullmatch(r"\w[\w.-]*/[\w.-]+", repository)
    return match is not None and (bool(file) or not data_suffix(Path(repository)))


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
    files = sorted(path for path in folder.iterdir() if path.is_file() and data_suffix(path))
    # A text file next to data is a licence or a description.
    candidates = [path for path in files if data_suffix(path) != ".txt"] or files
    if len(candidates) == 1:
        return str(candidates[0])
    names = ", ".join(path.name for path in candidates[:8]) or "none"
    raise KnbenchError(
        f"{folder}: {reader} needs exactly one data file ({', '.join(SUFFIXES)}), found: {names}; give one file"
    )
