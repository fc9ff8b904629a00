"""Result documents and the JSON Schemas that they are validated against."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..core.files import json_text, write_json
from .io import RESULT, read_json
from .json_schema import check

SCHEMA_VERSION = 1


ROUNDING, NOTHING = 1e-9, 1e-14
"""By what share, or by how much near zero, a number that comes from the same records may differ: processors add in
different orders."""


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


COMPUTED = ("records", "cost", "summary", "effect", "checkpoints", "immediate", "curve", "drift")
"""Parts of a result that come from its records; all others are the manifest's."""


def manifest_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a result was settled before the run: everything that its records do not give."""
    return {key: value for key, value in result.items() if key not in COMPUTED}


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Validate and write a run's ``result.json``, whole or not at all."""
    check(json.loads(json_text(result)), "result", str(folder / RESULT))
    write_json(folder / RESULT, result)
