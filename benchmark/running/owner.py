"""The process that writes a run folder, noted in a file that others read without taking the folder's lock."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path

OWNER = ".owner"
"""File name of the note in a run folder. It exists while the folder is locked, or after its process was killed."""


def write_owner(folder: Path) -> None:
    """Note this process as the owner of a folder. A note that cannot be written is left out."""
    note = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}
    with suppress(OSError):
        (folder / OWNER).write_text(json.dumps(note), encoding="utf-8")


def remove_owner(folder: Path) -> None:
    """Remove the note."""
    with suppress(OSError):
        (folder / OWNER).unlink()


def is_owned(folder: Path) -> bool:
    """Return whether the process that was noted as the owner of a folder is alive.

    A process on another computer, which shares the folder, counts as alive while its note exists.
    """
    try:
        note = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        host, pid, started = note["host"], int(note["pid"]), note["started"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if host != _host():
        return True
    # A later process may have the number of a killed one, but not its start time.
    return _exists(pid) and started == _started(pid)


def _host() -> str:
    """Return a digest of the computer's name, which does not reveal the name if a run folder is published."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 is not delivered
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the computer did; None if it ended or on other systems."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a killed process is a zombie until its parent reads its status
