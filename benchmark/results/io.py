"""Results on disk: reading, writing, checking. Imports no torch, so the site builds in a second.

A run folder holds ``manifest.json`` (what was run, written before the first case), ``records.jsonl`` (one line per
case, appended as it is measured) and ``result.json`` (computed from the two).
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..core.files import write_text
from .json_schema import checker

MANIFEST, RECORDS, RESULT = "manifest.json", "records.jsonl", "result.json"
CHECKPOINTS, DRIFT = "checkpoints.jsonl", "drift.jsonl"
PARTS, ANALYSIS = "parts.jsonl", "analysis.json"
LARGEST = 1 << 28
"""Bytes that a packed file may unpack to: a few kilobytes can unpack to any number of zeros."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "record": ("case", "case_id"),
    "checkpoint": ("edits and case", "edits", "case_id"),
    "drift": ("place", "edits", "case_id", "block"),
    "part": ("part", "key"),
}
"""Kinds of JSON lines: how people call what tells one from another, and in which fields it stands."""


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, unpacked where it is packed.

    Raises:
        KnbenchError: it is missing, cannot be unpacked, or unpacks to more than :data:`LARGEST` bytes.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise KnbenchError(f"{path}: {error}") from None
    if len(data) > LARGEST:
        raise KnbenchError(f"{path}: unpacks to more than {LARGEST >> 20} MB; no run has so many records")
    return data


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        KnbenchError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits, and of too deep a nest
        raise KnbenchError(f"{path}: not valid JSON ({error}); delete it and run knbench score again") from None
    except OSError as error:
        raise KnbenchError(f"{path}: {error.strerror}") from None


def read_records(path: Path, kind: str = "record") -> list[dict[str, Any]]:
    """Read and validate a file of JSON lines: ``records.jsonl``, or another of the :data:`KEYS`.

    Raises:
        KnbenchError: it is missing, or a line is broken or repeats another; names the line.
    """
    check_line = checker(kind)
    try:
        lines = read_bytes(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise KnbenchError(f"{path}: {error}") from None
    if lines and lines[-1]:
        raise KnbenchError(f"{path}: line {len(lines)} was cut off; start the run again to continue it")
    found: list[dict[str, Any]] = []
    seen: dict[Any, int] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise KnbenchError(f"{path}: line {number} is broken: {error}") from None
        flaw = check_line(row)
        if flaw is not None:
            raise KnbenchError(f"{path}: line {number} is no valid {kind} {flaw}")
        key = key_of(row, kind)
        if key in seen:
            raise KnbenchError(f"{path}: line {number} repeats {KEYS[kind][0]} '{key}' of line {seen[key]}")
        seen[key] = number
        found.append(row)
    return found


def key_of(row: Mapping[str, Any], kind: str) -> Any:
    """Return what tells a line from the others of its file."""
    values = tuple(row.get(name) for name in KEYS[kind][1:])
    return values[0] if len(values) == 1 else values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def sha256_of(path: Path) -> str:
    """Return the sha256 of what a file holds, unpacked where it is packed.

    Raises:
        KnbenchError: it cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


class RecordsFile:
    """A run's records, appended line by line so that what is measured is on disk.

    Opening an existing file keeps its whole lines; a last line that was cut off is dropped, since its case will be
    measured again.

    Args:
        path: the file; made where it is missing.
        kind: which lines it holds, one of :data:`KEYS`.
    """

    def __init__(self, path: Path, kind: str = "record") -> None:
        self.path, self.kind = path, kind
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                with path.open("r+b") as stream:
                    stream.truncate(len(whole))
        else:
            path.touch()
        self.done = {key_of(row, kind) for row in read_records(path, kind)}

    def has(self, where: Mapping[str, Any]) -> bool:
        """Whether there is a line with these keys."""
        return key_of(where, self.kind) in self.done

    def drop(self, unwanted: Callable[[Mapping[str, Any]], bool]) -> int:
        """Take lines out, so that what they say is measured again; returns how many."""
        rows = read_records(self.path, self.kind)
        kept = [row for row in rows if not unwanted(row)]
        if len(kept) < len(rows):
            write_text(self.path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in kept))
            self.done = {key_of(row, self.kind) for row in kept}
        return len(rows) - len(kept)

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
        self.done.add(key_of(record, self.kind))
