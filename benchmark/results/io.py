"""JSON files and files of JSON lines: reading with checks, and appending line by line. Imports no torch.

A run folder holds ``manifest.json`` (written before the first case), ``records.jsonl`` (one line per case, appended
when it is measured) and ``result.json`` (computed from the two). Sequential runs have ``checkpoints.jsonl``, runs with
drift have ``drift.jsonl``.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
MAX_UNPACKED_BYTES = 1 << 26
"""Maximum size of a decompressed file. A few kilobytes can decompress to any number of zeros."""
MAX_LINE_BYTES = 1 << 22
"""Maximum size of a line of a compressed file."""
MAX_VALUES = 6_000_000
"""Maximum number of JSON values in a compressed file: two bytes of text can take a hundred bytes of memory."""
_CHUNK_BYTES = 1 << 20
_SEPARATORS = (b",", b"[", b"{")
MAX_NESTING = 64
_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DIGITS = 30
_LONG = b"0" * 25
"""Digits of a number that may be too long."""
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
"""Maps a text to its shape, in which numbers that may be infinite or too long are found fast."""
_NO_BRACKETS = bytes(n for n in range(256) if n not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

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
    return b"".join(_chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in parts, decompressed if its name ends in ``.gz``, with a limit of their size."""
    packed = path.suffix == ".gz"
    size = 0
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                if packed and size > MAX_UNPACKED_BYTES:
                    raise KnbenchError(f"{path}: decompresses to more than {MAX_UNPACKED_BYTES >> 20} MB")
                yield chunk
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise KnbenchError(f"{path}: {error}") from None


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their line breaks. The size of compressed ones is limited."""
    packed = path.suffix == ".gz"
    values, rest = 0, b""
    for chunk in _chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        if packed:
            values += sum(map(chunk.count, _SEPARATORS))
            if values > MAX_VALUES:
                raise KnbenchError(f"{path}: has more than {MAX_VALUES:,} values")
            if any(len(line) > MAX_LINE_BYTES for line in (*whole, rest)):
                raise KnbenchError(f"{path}: has a line of more than {MAX_LINE_BYTES >> 20} MB")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def read_json(path: Path, max_bytes: int | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        max_bytes: maximum size.

    Raises:
        KnbenchError: the file is missing, too large or not valid JSON.
    """
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise KnbenchError(f"{path}: {path.stat().st_size >> 10} kB; at most {max_bytes >> 10} kB are read")
        return _parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KnbenchError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # also numbers with thousands of digits, and deep nesting
        raise KnbenchError(f"{path}: not valid JSON ({error}); {_advice(path)}") from None
    except OSError as error:
        raise KnbenchError(f"{path}: {error.strerror}") from None


def _parse_json(text: str) -> Any:
    """Parse JSON. Numbers without a finite value and unpaired surrogates, which Python accepts, are errors.

    Raises:
        ValueError: the text is not JSON, or has such a number or character.
        RecursionError: its values are nested too deeply.
    """
    value = _DECODER.decode(text)
    if nesting(text) > MAX_NESTING:
        raise ValueError(f"values are nested more than {MAX_NESTING} deep")
    if _MAYBE_SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    shape = text.encode("ascii", "replace").translate(_SHAPE)
    if _LONG in shape or b"e000" in shape or b"e+000" in shape:
        json.loads(text, parse_float=_finite, parse_int=_short_integer)
    return value


def nesting(text: str) -> int:
    """Return how deeply the values of a text in valid JSON are nested. Brackets in strings do not count."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    outside = "".join(text.split('"')[::2]).encode("ascii", "replace")
    brackets = outside.translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is beyond the range of numbers")
    return float(text)


def _short_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


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
    return _parse_lines(path, _lines(path), kind)


def read_hashed_lines(path: Path, kind: LineKind[LineT]) -> tuple[list[LineT], str]:
    """Read and validate a file of JSON lines, and return the lines and the sha256 of its decompressed content.

    The text is read line by line and never held as a whole.

    Raises:
        KnbenchError: the file is missing, or a line is invalid or repeats another; names the line.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for line in _lines(path):
            digest.update(line)
            yield line

    parsed = _parse_lines(path, hashed(), kind)
    return parsed, digest.hexdigest()


def parse_lines(path: Path, data: bytes, kind: LineKind[LineT]) -> list[LineT]:
    """Parse and validate the content of a file of JSON lines.

    Args:
        path: of the file, for messages.
        data: its decompressed content.
        kind: the kind of its lines.

    Raises:
        KnbenchError: a line is invalid or repeats another; names the line.
    """
    return _parse_lines(path, io.BytesIO(data), kind)


def _parse_lines(path: Path, lines: Iterable[bytes], kind: LineKind[LineT]) -> list[LineT]:
    find_flaw = checker(kind.schema)
    parsed: list[LineT] = []
    numbers: dict[Any, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            raise KnbenchError(f"{path}: line {number} was cut off; start the run again to continue it")
        try:
            value = _parse_json(line.decode())
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


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)


def lines_text(lines: Iterable[Any]) -> str:
    """Return lines as the text of a file of JSON lines."""
    return "".join(json.dumps(to_json(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)


def sha256_of(path: Path) -> str:
    """Return the sha256 of the content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        KnbenchError: the file cannot be read.
    """
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


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

    def drop_keys(self, keys: Collection[Any]) -> int:
        """Remove the lines with some keys, and return their number."""
        return self.drop(lambda line: self.kind.key_of(line) in keys)

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
