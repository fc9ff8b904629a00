"""JSON files and files of JSON lines: reading with checks, and appending line by line. Imports no torch.

A run folder holds ``manifest.json`` (written before the first case), ``records.jsonl`` (one line per case, appended
when it is measured) and ``result.json`` (computed from the two). Sequential runs have ``checkpoints.jsonl``, runs with
drift have ``drift.jsonl``.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..core.errors import KnbenchError
from ..core.files import write_text
from ..core.records import CheckpointLine, DriftLine, Record, from_json, to_json
from .json_schema import checker

MANIFEST, RECORDS, RESULT = "manifest.json", "records.jsonl", "result.json"
CHECKPOINTS, DRIFT = "checkpoints.jsonl", "drift.jsonl"
PARTS, ANALYSIS = "parts.jsonl", "analysis.json"
MAX_UNPACKED_BYTES = 1 << 28
"""Maximum size of a decompressed file. A few kilobytes can decompress to any number of zeros."""

LineT = TypeVar("LineT")


@dataclass(frozen=True)
class LineKind(Generic[LineT]):
    """A kind of JSON lines.

    Attributes:
        schema: name of the JSON Schema of a line.
        label: name of the key in messages.
        key_fields: fields that identify a line in its file.
        decode: builds a line from its JSON value.
    """

    schema: str
    label: str
    key_fields: tuple[str, ...]
    decode: Callable[[Any], LineT]

    def key(self, fields: Mapping[str, Any]) -> Any:
        """Return the key of the line with these fields."""
        values = tuple(fields.get(name) for name in self.key_fields)
        return values[0] if len(values) == 1 else values

    def key_of(self, line: LineT) -> Any:
        """Return the key of a line."""
        if isinstance(line, Mapping):
            return self.key(line)
        return self.key({name: getattr(line, name) for name in self.key_fields})


RECORD = LineKind("record", "case", ("case_id",), lambda value: from_json(value, Record))
CHECKPOINT = LineKind("checkpoint", "edits and case", ("edits", "case_id"), lambda v: from_json(v, CheckpointLine))
DRIFT_LINE = LineKind("drift", "measurement", ("edits", "case_id", "block"), lambda v: from_json(v, DriftLine))
PART: LineKind[Mapping[str, Any]] = LineKind("part", "part", ("key",), lambda value: value)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        KnbenchError: the file is missing, cannot be decompressed, or exceeds :data:`MAX_UNPACKED_BYTES`.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            data = stream.read(MAX_UNPACKED_BYTES + 1)
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise KnbenchError(f"{path}: {error}") from None
    if len(data) > MAX_UNPACKED_BYTES:
        raise KnbenchError(f"{path}: decompresses to more than {MAX_UNPACKED_BYTES >> 20} MB")
    return data


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        KnbenchError: the file is missing or not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject_constant)
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # also numbers with thousands of digits, and deep nesting
        raise KnbenchError(f"{path}: not valid JSON ({error}); {_advice(path)}") from None
    except OSError as error:
        raise KnbenchError(f"{path}: {error.strerror}") from None


def _advice(path: Path) -> str:
    """Return how to replace a broken JSON file."""
    if path.name == RESULT:
        return f"delete it and run: knbench score {path.parent}"
    if path.name in (MANIFEST, ANALYSIS):
        return f"restore it from a copy, or delete {path.parent} and run it again"
    return "restore it from a copy, or delete it"


def read_lines(path: Path, kind: LineKind[LineT]) -> list[LineT]:
    """Read and validate a file of JSON lines.

    Raises:
        KnbenchError: the file is missing, or a line is invalid or repeats another; names the line.
    """
    return parse_lines(path, read_bytes(path), kind)


def parse_lines(path: Path, data: bytes, kind: LineKind[LineT]) -> list[LineT]:
    """Parse and validate the content of a file of JSON lines.

    Args:
        path: of the file, for messages.
        data: its decompressed content.
        kind: the kind of its lines.

    Raises:
        KnbenchError: a line is invalid or repeats another; names the line.
    """
    find_flaw = checker(kind.schema)
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise KnbenchError(f"{path}: {error}") from None
    if lines and lines[-1]:
        raise KnbenchError(f"{path}: line {len(lines)} was cut off; start the run again to continue it")
    parsed: list[LineT] = []
    numbers: dict[Any, int] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            value = json.loads(line, parse_constant=_reject_constant)
        except (ValueError, RecursionError) as error:
            raise KnbenchError(f"{path}: line {number} is broken: {error}") from None
        flaw = find_flaw(value)
        if flaw is not None:
            raise KnbenchError(f"{path}: line {number} is not a valid {kind.schema} {flaw}")
        try:
            parsed.append(kind.decode(value))
        except ValueError as error:  # a rule that the schema cannot state
            raise KnbenchError(f"{path}: line {number} is not a valid {kind.schema}: {error}") from None
        key = kind.key_of(parsed[-1])
        if key in numbers:
            raise KnbenchError(f"{path}: line {number} repeats {kind.label} '{key}' of line {numbers[key]}")
        numbers[key] = number
    return parsed


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def lines_text(lines: Iterable[Any]) -> str:
    """Return lines as the text of a file of JSON lines."""
    return "".join(json.dumps(to_json(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)


def sha256_of(path: Path) -> str:
    """Return the sha256 of the content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        KnbenchError: the file cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


class JsonLinesFile(Generic[LineT]):
    """A file of JSON lines that is appended to. An appended line is on disk when :meth:`append` returns.

    Opening an existing file keeps its complete lines. An incomplete last line is dropped, because its case will be
    measured again.

    Args:
        path: the file; created if it does not exist.
        kind: the kind of its lines.

    Attributes:
        keys: keys of the lines that are in the file.
    """

    def __init__(self, path: Path, kind: LineKind[LineT]) -> None:
        self.path, self.kind = path, kind
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                with path.open("r+b") as stream:
                    stream.truncate(len(whole))
        else:
            path.touch()
        self.keys = {kind.key_of(line) for line in read_lines(path, kind)}

    def has(self, **fields: Any) -> bool:
        """Return whether the file has a line with these key fields."""
        return self.kind.key(fields) in self.keys

    def drop(self, unwanted: Callable[[LineT], bool]) -> int:
        """Remove lines, whose cases are then measured again, and return their number."""
        lines = read_lines(self.path, self.kind)
        kept = [line for line in lines if not unwanted(line)]
        if len(kept) < len(lines):
            write_text(self.path, lines_text(kept))
            self.keys = {self.kind.key_of(line) for line in kept}
        return len(lines) - len(kept)

    def append(self, line: LineT) -> None:
        """Append a line.

        Raises:
            OSError: the line cannot be written; no part of it stays in the file.
        """
        text = lines_text([line]).encode()
        size = self.path.stat().st_size
        try:
            with self.path.open("ab", buffering=0) as stream:
                stream.write(text)
                os.fsync(stream.fileno())
            if self.path.stat().st_size != size + len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.truncate(self.path, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.keys.add(self.kind.key_of(line))
