"""Manifests, results and other JSON documents on disk: loading with validation, writing, comparing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..core.documents import SCHEMA_VERSION, Manifest, Result
from ..core.errors import KnbenchError
from ..core.files import json_text, write_json
from ..core.records import from_json, to_json
from .io import RESULT, read_json
from .json_schema import check

T = TypeVar("T")

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-9, 1e-14
"""Differences between numbers that were computed from the same records: processors add in different orders."""

OnBroken = Callable[[KnbenchError], object]
"""Called with the error of a file that cannot be read: raise it, or note it and continue with the other files."""


def reraise(error: KnbenchError) -> None:
    """Stop at the first broken file."""
    raise error


def load_result(path: Path) -> Result:
    """Read and validate a result.

    Raises:
        KnbenchError: the file is missing, broken, of a newer schema version, or invalid.
    """
    document = read_json(path)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise KnbenchError(f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; upgrade knbench")
    check(document, "result", str(path))
    return _typed(document, Result, path)


def load_manifest(path: Path) -> Manifest:
    """Read a run folder's manifest.

    Raises:
        KnbenchError: the file is missing or is not a manifest.
    """
    return _typed(read_json(path), Manifest, path)


def _typed(document: Any, kind: type[T], path: Path) -> T:
    try:
        return from_json(document, kind)
    except ValueError as error:
        raise KnbenchError(f"{path}: not a valid {kind.__name__.lower()}: {error}") from None


def manifest_of(result: Result) -> Manifest:
    """Return the manifest that a result was computed with."""
    return Manifest(**{name: getattr(result, name) for name in Manifest.__struct_fields__})


def write_result(folder: Path, result: Result) -> None:
    """Validate and write the result of a run folder atomically."""
    check_result(result, str(folder / RESULT))
    write_json(folder / RESULT, to_json(result))


def check_result(result: Result, where: str) -> None:
    """Validate a computed result against its schema, as whoever reads it will.

    Raises:
        KnbenchError: the result is invalid.
    """
    check(json.loads(json_text(to_json(result))), "result", where)


def find_documents(roots: Sequence[Path], name: str, on_broken: OnBroken = reraise) -> list[Mapping[str, Any]]:
    """Return every document with a file name that has a schema, such as ``analysis.json``, in a stable order.

    Args:
        roots: folders that are searched.
        name: name of the files.
        on_broken: called with the error of each file that cannot be read.
    """
    found = []
    for path in sorted(path for root in roots for path in root.rglob(name)):
        try:
            document = read_json(path)
            check(document, path.stem, str(path))
            found.append(document)
        except KnbenchError as error:
            on_broken(error)
    return found


def release_series(version: str) -> str:
    """Return the part of a benchmark version that decides whether numbers can be compared: major and minor number.

    Patch releases measure the same numbers. The series of a development version is that of its release.

    >>> release_series("0.1.0"), release_series("0.1.4.dev2+local"), release_series("1.12rc1"), release_series("2")
    ('0.1', '0.1', '1.12', '2')
    """
    found = re.match(r"\d+(\.\d+)?", version)
    return found[0] if found else version


def comparable(result: Result) -> dict[str, Any]:
    """Return the values that must agree for two results to be compared, besides their editors.

    Settings that no other number depends on, and settings that are not in use, are left out.
    Results of different release series of the benchmark are not compared, see :func:`release_series`.
    :func:`optional_conditions` must agree as well if both results have them. :func:`different_conditions` compares two
    results by both.
    """
    protocol = to_json(result.protocol)
    used = {k: v for k, v in protocol.items() if k not in ("batch_size", "drift", "fluency_tokens", "probes")}
    return {
        "benchmark": release_series(result.benchmark_version),
        "task": result.task.name,
        "version": result.task.version,
        "content": result.task.content_hash,
        "model": result.model.name,
        "weights": result.model.weight_hash,
        "dtype": result.model.dtype,
        "seed": result.seed,
        **{k: used[k] for k in sorted(used) if used[k] not in (None, (), 0)},
    }


def optional_conditions(result: Result) -> dict[str, str]:
    """Return the values that must agree for two results to be compared if both results have them.

    Results of earlier versions lack them.
    """
    values = {"tokenizer": result.model.tokenizer_hash, "config": result.model.config_hash}
    return {key: value for key, value in values.items() if value is not None}


def different_conditions(a: Result, b: Result) -> dict[str, tuple[Any, Any]]:
    """Return the conditions in which two results differ, by key, with both values; empty if they can be compared."""
    first, second = comparable(a), comparable(b)
    keys = list(dict.fromkeys([*first, *second]))
    optional, others = optional_conditions(a), optional_conditions(b)
    keys += [key for key in optional if key in others]
    first, second = {**first, **optional}, {**second, **others}
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def without_edit_scores(result: Result) -> Result:
    """Return a result as version 0.1 stated it."""
    curve = result.curve and tuple(msgspec.structs.replace(point, edit_score=None) for point in result.curve)
    return msgspec.structs.replace(result, edit_score=None, immediate_edit_score=None, curve=curve)


def first_difference(stored: Any, computed: Any, at: str = "") -> str | None:
    """Return the JSON pointer of the first place where two documents differ by more than rounding, or None.

    Args:
        stored: plain JSON values, or a stored type.
        computed: the other document. If the stored one is a result of version 0.1, which states no edit score, that of
            the computed one is not compared.
        at: JSON pointer of the two.
    """
    if isinstance(stored, Result) and isinstance(computed, Result) and stored.protocol.integrity is None:
        computed = computed if stored.edit_score else without_edit_scores(computed)
    a, b = to_json(stored), to_json(computed)
    if isinstance(a, float) and isinstance(b, float):
        return None if math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE) else at
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        parts = [(f"{at}/{key}", a.get(key), b.get(key)) for key in sorted({*a, *b})]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        parts = [(f"{at}/{n}", *pair) for n, pair in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else at
    return next((place for pointer, x, y in parts if (place := first_difference(x, y, pointer)) is not None), None)
