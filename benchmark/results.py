"""Results on disk: reading, writing, checking. Imports no torch, so the site builds in a second.

A run folder holds ``manifest.json`` (what was run, written before the first case), ``records.jsonl`` (one line per
case, appended as it is measured) and ``result.json`` (computed from the two).
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs

from .criteria import CRITERIA, MEASURES
from .errors import KnbenchError
from .files import json_text, write_json, write_text

__all__ = [
    "CRITERIA",
    "MEASURES",
    "KnbenchError",
    "Run",
    "comparable",
    "find_documents",
    "find_runs",
    "load_result",
    "read_records",
    "write_text",
]

SCHEMA_VERSION = 1
MANIFEST, RECORDS, RESULT = "manifest.json", "records.jsonl", "result.json"
CHECKPOINTS, DRIFT = "checkpoints.jsonl", "drift.jsonl"
ROUNDING, NOTHING = 1e-9, 1e-14
"""By what share, or by how much near zero, a number that comes from the same records may differ: processors add in
different orders."""
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


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies, its validated result, and its records on demand.

    Attributes:
        folder: the folder.
        result: the result.
        stem: of a stored result ``NAME.json`` with ``NAME.records.jsonl.gz`` beside it, the NAME; of a run folder, with
            ``result.json`` and ``records.jsonl``, nothing.
    """

    folder: Path
    result: Mapping[str, Any]
    stem: str = ""

    def path(self, name: str) -> Path:
        """Return where one of the run's files of JSON lines lies."""
        return self.folder / (f"{self.stem}.{name}.gz" if self.stem else name)

    @property
    def where(self) -> Path:
        """The path of the result itself."""
        return self.folder / (f"{self.stem}.json" if self.stem else RESULT)

    def records(self) -> list[dict[str, Any]]:
        """Read the records, checked against the result's hash.

        Raises:
            KnbenchError: the file is missing, broken, or not the one that was scored.
        """
        return self._lines(RECORDS, "record", self.result["records"]["sha256"])

    def final_records(self) -> list[dict[str, Any]]:
        """Read the records; of sequential edits, with what was observed after the last one.

        Raises:
            KnbenchError: a file is missing, broken, or not the one that was scored.
        """
        records = self.records()
        if "checkpoints" not in self.result:
            return records
        last = self.result["curve"][-1]["edits"]
        lines = self._lines(CHECKPOINTS, "checkpoint", self.result["checkpoints"]["sha256"])
        found = {row["case_id"]: row for row in lines if row["edits"] == last}
        return [measured_again(record, found[record["case_id"]]) for record in records]

    def _lines(self, name: str, kind: str, sha256: str) -> list[dict[str, Any]]:
        path = self.path(name)
        if sha256_of(path) != sha256:
            raise KnbenchError(f"{path}: changed since it was scored; run: knbench score {self.folder} --write")
        return read_records(path, kind)


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


def measured_again(record: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with what was observed at a stop in place of what was observed after its own edit.

    Raises:
        KnbenchError: the line has not as many observations as the case has probes.
    """
    if len(line["after"]) != len(record["probes"]):
        raise KnbenchError(
            f"checkpoint of case '{record['case_id']}' after {line['edits']} edits holds {len(line['after'])} "
            f"observations for {len(record['probes'])} probes"
        )
    probes = [{**probe, "after": after} for probe, after in zip(record["probes"], line["after"], strict=True)]
    return {**record, "probes": probes, "collapsed": bool(line["failure"])}


def comparable(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must agree for two results to stand in one table, besides their editors.

    Left out are what no other number depends on, and what is not set: a result may lack a key that another has.
    """
    protocol = {k: v for k, v in result["protocol"].items() if k not in ("batch_size", "drift", "fluency_tokens")}
    task, model = result["task"], result["model"]
    return {
        "task": task["name"],
        "version": task["version"],
        "content": task["content_hash"],
        "model": model["name"],
        "weights": model["weight_hash"],
        "dtype": model["dtype"],
        "seed": result["seed"],
        **{k: protocol[k] for k in sorted(protocol) if protocol[k] not in (None, [], 0)},
    }


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
    flaw = _checker(name)(document)
    if flaw is not None:
        raise KnbenchError(f"{where}: no valid {name} {flaw}")


@cache
def _checker(kind: str) -> Callable[[Any], str | None]:
    """Return what tells a document's flaw, or None for a good one.

    jsonschema-rs decides, a hundred times faster; jsonschema words the complaint.
    """
    quick = jsonschema_rs.Draft202012Validator(dict(schema(kind)))

    def flaw(document: Any) -> str | None:
        if quick.is_valid(document):
            return None
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(kind)).iter_errors(document))
        if error is None:
            return "by jsonschema-rs"
        message = error.message if len(error.message) < 200 else error.message[:200] + "..."
        return f"at /{'/'.join(str(part) for part in error.absolute_path)}: {message}"

    return flaw


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


Broken = Callable[[KnbenchError], object]
"""What is done about a broken file among others: raise, or take note of it and go on without the file."""


def refuse(error: KnbenchError) -> None:
    """Stop at the first broken file."""
    raise error


def find_runs(roots: Sequence[Path], broken: Broken = refuse) -> list[Run]:
    """Return every finished run below the given folders, in a stable order.

    Args:
        roots: the folders.
        broken: told of each result that cannot be read.

    Raises:
        KnbenchError: a folder does not exist, or holds no result.
    """
    runs = []
    for root in roots:
        if not root.is_dir():
            raise KnbenchError(f"results folder '{root}' does not exist; make one with: knbench run --output {root}")
        ending = f".{RECORDS}.gz"
        places = [(path.parent, "") for path in sorted(root.rglob(RESULT))]
        places += [(path.parent, path.name.removesuffix(ending)) for path in sorted(root.rglob(f"*{ending}"))]
        if not places and not any(root.rglob(ANALYSIS)):
            raise KnbenchError(f"no {RESULT} below '{root}'; make one with: knbench run --output {root}")
        for folder, stem in places:
            try:
                runs.append(Run(folder, load_result(folder / (f"{stem}.json" if stem else RESULT)), stem))
            except KnbenchError as error:
                broken(error)
    if not runs:
        names = ", ".join(map(str, roots))
        raise KnbenchError(f"no {RESULT} that can be read below '{names}'; make one with: knbench run --output ...")
    return runs


def differing(stored: Any, again: Any, at: str = "") -> str | None:
    """Return the JSON pointer of the first place where two documents differ by more than processors round."""
    if isinstance(stored, float) and isinstance(again, float):
        return None if math.isclose(stored, again, rel_tol=ROUNDING, abs_tol=NOTHING) else at
    if isinstance(stored, Mapping) and isinstance(again, Mapping):
        keys = sorted({*stored, *again})
        parts = ((f"{at}/{key}", stored.get(key), again.get(key)) for key in keys)
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        parts = ((f"{at}/{n}", *both) for n, both in enumerate(zip(stored, again, strict=True)))
    else:
        return None if stored == again else at
    return next((found for place, a, b in parts if (found := differing(a, b, place)) is not None), None)


def find_documents(roots: Sequence[Path], name: str, broken: Broken = refuse) -> list[Mapping[str, Any]]:
    """Return every document with a file name that has a schema, such as ``analysis.json``, in a stable order.

    Args:
        roots: the folders below which it is looked for.
        name: of the file.
        broken: told of each that cannot be read.
    """
    found = []
    for path in sorted(path for root in roots for path in root.rglob(name)):
        try:
            document = read_json(path)
            check(document, path.stem, str(path))
            found.append(document)
        except KnbenchError as error:
            broken(error)
    return found


def read_records(path: Path, kind: str = "record") -> list[dict[str, Any]]:
    """Read and validate a file of JSON lines: ``records.jsonl``, or another of the :data:`KEYS`.

    Raises:
        KnbenchError: it is missing, or a line is broken or repeats another; names the line.
    """
    check_line = _checker(kind)
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


@dataclass(frozen=True)
class RunFiles:
    """The files that a run appends to.

    Attributes:
        records: one line per case.
        checkpoints: of sequential edits, all cases so far measured again; None in other regimes.
        drift: what no edit is about; None where it is not measured.
    """

    records: RecordsFile
    checkpoints: RecordsFile | None = None
    drift: RecordsFile | None = None

    def stored_records(self) -> dict[str, dict[str, Any]]:
        """Return the records on disk by case id."""
        return {record["case_id"]: record for record in read_records(self.records.path)}


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Validate and write a run's ``result.json``, whole or not at all."""
    check(json.loads(json_text(result)), "result", str(folder / RESULT))
    write_json(folder / RESULT, result)
