"""Results on disk: reading, writing, checking. Imports no torch, so the site builds in a second.

A run folder holds ``manifest.json`` (what was run, written before the first case), ``records.jsonl`` (one line per
case, appended as it is measured) and ``result.json`` (computed from the two).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from .criteria import CRITERIA, MEASURES
from .errors import KnbenchError
from .files import json_text, write_json

__all__ = ["CRITERIA", "MEASURES", "KnbenchError", "Run", "find_runs", "load_result", "read_records"]

SCHEMA_VERSION = 1
MANIFEST, RECORDS, RESULT = "manifest.json", "records.jsonl", "result.json"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its validated result, and its records on demand."""

    folder: Path
    result: Mapping[str, Any]

    def records(self) -> list[dict[str, Any]]:
        """Read the records, checked against the result's hash.

        Raises:
            KnbenchError: the file is missing, broken, or not the one that was scored.
        """
        path = self.folder / RECORDS
        if sha256_of(path) != self.result["records"]["sha256"]:
            raise KnbenchError(f"{path}: changed since it was scored; run: knbench score {self.folder} --write")
        return read_records(path)


@cache
def schema(name: str) -> Mapping[str, Any]:
    """Return one of the project's JSON Schemas: ``result`` or ``record``."""
    text = files(__package__).joinpath(f"schemas/{name}.schema.json").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def check(document: Any, name: str, where: str) -> None:
    """Validate a document.

    Raises:
        KnbenchError: it does not fit; the message names the place as a JSON pointer.
    """
    validator = jsonschema.Draft202012Validator(schema(name))
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        pointer = "/" + "/".join(str(part) for part in error.absolute_path)
        message = error.message if len(error.message) < 200 else error.message[:200] + "..."
        raise KnbenchError(f"{where}: no valid {name} at {pointer}: {message}")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        KnbenchError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KnbenchError(f"{path}: not valid JSON ({error}); delete it and run knbench score again") from None
    except OSError as error:
        raise KnbenchError(f"{path}: {error.strerror}") from None


def load_result(path: Path) -> Mapping[str, Any]:
    """Read and validate a ``result.json``.

    Raises:
        KnbenchError: it is missing, broken, of a newer schema, or does not fit the schema.
    """
    document = read_json(path)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise KnbenchError(f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; upgrade knbench")
    check(document, "result", str(path))
    result: Mapping[str, Any] = document
    return result


def find_runs(roots: Sequence[Path]) -> list[Run]:
    """Return every finished run below the given folders, in a stable order.

    Raises:
        KnbenchError: a folder does not exist, holds no result, or holds a broken one.
    """
    runs = []
    for root in roots:
        if not root.is_dir():
            raise KnbenchError(f"results folder '{root}' does not exist; make one with: knbench run --output {root}")
        found = sorted(root.rglob(RESULT))
        if not found:
            raise KnbenchError(f"no {RESULT} below '{root}'; make one with: knbench run --output {root}")
        runs += [Run(path.parent, load_result(path)) for path in found]
    return runs


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read and validate a ``records.jsonl``.

    Raises:
        KnbenchError: it is missing, or a line is broken; names the line.
    """
    return [record for _, record in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    validator = jsonschema.Draft202012Validator(schema("record"))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KnbenchError(f"{path}: {error}") from None
    if lines and lines[-1]:
        raise KnbenchError(f"{path}: line {len(lines)} was cut off; start the run again to continue it")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            raise KnbenchError(f"{path}: line {number} is broken: {error}") from None
        flaw = jsonschema.exceptions.best_match(validator.iter_errors(record))
        if flaw is not None:
            pointer = "/" + "/".join(str(part) for part in flaw.absolute_path)
            raise KnbenchError(f"{path}: line {number} is no valid record at {pointer}: {flaw.message[:200]}")
        if record["case_id"] in seen:
            raise KnbenchError(
                f"{path}: line {number} repeats case '{record['case_id']}' of line {seen[record['case_id']]}"
            )
        seen[record["case_id"]] = number
        yield number, record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        KnbenchError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise KnbenchError(f"{path}: {error.strerror}") from None


class RecordsFile:
    """The records of a run, appended line by line so that what is measured is on disk.

    Opening an existing file keeps its whole lines; a last line that was cut off is dropped, since its case will be
    measured again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                with path.open("r+b") as stream:
                    stream.truncate(len(whole))
        else:
            path.touch()
        self.done = {record["case_id"] for record in read_records(path)}

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is on disk when this returns. A write that fails leaves no partial line."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        size = self.path.stat().st_size
        try:
            with self.path.open("ab", buffering=0) as stream:
                stream.write(line.encode())
                os.fsync(stream.fileno())
            if self.path.stat().st_size != size + len(line.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.truncate(self.path, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.done.add(record["case_id"])


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Validate and write a run's ``result.json``, whole or not at all."""
    check(json.loads(json_text(result)), "result", str(folder / RESULT))
    write_json(folder / RESULT, result)
