"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import gc
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[str]]:
    """Write a text file whole or not at all: ``with atomic_write(path) as f: f.write(...)``."""
    with _atomic(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n", write_through=True)
        yield text
        text.detach()


@contextmanager
def _atomic(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def many_objects() -> Iterator[None]:
    """``with many_objects(): ...`` makes millions of small objects without a search for cycles among them.

    Python's collector would go through all of them again and again, for twice the time that parsing takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def json_text(value: Any) -> str:
    """Return the one spelling of a JSON document that this project writes (no NaN, sorted as given)."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically."""
    with atomic_write(path) as stream:
        stream.write(json_text(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with _atomic(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text)
