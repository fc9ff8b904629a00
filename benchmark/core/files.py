"""Atomic file writing, the JSON format of the project, and the cache folder.

A reader of an atomically written file sees either the old or the new content, never a part.
"""

from __future__ import annotations

import gc
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def cache_folder() -> Path:
    """Return the cache folder of the project: ``KNBENCH_CACHE`` if it is set, otherwise in the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("KNBENCH_CACHE") or platformdirs.user_cache_dir("knbench", appauthor=False))


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Exclude other processes and threads that compute a file of a cache: ``with exclusive(path): ...``.

    Waits for the present holder. The lock ends with the process that holds it: a killed process blocks no other. The
    lock is a file beside ``path``, which stays. A second ``exclusive(path)`` inside the block would wait for ever.

    Raises:
        OSError: the lock cannot be created, for example because the folder is not writable.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def compute_once(path: Path, compute: Callable[[], object]) -> Path:
    """Return the path of a file of a cache. If it does not exist, one of several processes computes it.

    Args:
        path: the file.
        compute: writes the file atomically.

    Raises:
        OSError: the file or its lock cannot be written.
    """
    if not path.exists():
        with exclusive(path):
            if not path.exists():
                compute()
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[str]]:
    """Write a text file atomically: ``with atomic_write(path) as stream: stream.write(...)``.

    Parent folders are created. An exception in the block leaves the file unchanged.
    """
    with _atomic_binary(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n", write_through=True)
        yield text
        text.detach()


@contextmanager
def _atomic_binary(path: Path) -> Iterator[IO[bytes]]:
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
def gc_paused() -> Iterator[None]:
    """Disable the garbage collector while a block creates millions of objects: ``with gc_paused(): ...``.

    The collector otherwise traverses the new objects repeatedly, which takes twice the time of parsing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def json_text(value: Any) -> str:
    """Serialise a value as JSON in the format of the project: one space of indent, keys in the given order, no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically."""
    with atomic_write(path) as stream:
        stream.write(json_text(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically."""
    with _atomic_binary(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a string to a text file atomically."""
    with atomic_write(path) as stream:
        stream.write(text)
