"""A run's log, for people's scripts and for ``knbench status``: one JSON line per event, in ``events.jsonl``.

An event tells the time of day, which somebody who sets the clock may turn back, and the seconds since its run began,
which never decrease. ``schemas/event.schema.json`` says what each event holds.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


class EventLog:
    """``log = EventLog(path); log.note("unit_started", worker=0)`` appends a line.

    A last line that was cut off is dropped when the log is opened. Several starts of a run share a file: ``run`` tells
    them apart.

    Args:
        path: the file; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, uuid.uuid4().hex[:12]
        self._began = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)

    def note(self, event: str, **fields: Any) -> None:
        """Append an event.

        Raises:
            OSError: it cannot be written; what there is of its line is dropped when the log is opened again.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        row = {"run": self.run, "time": now, "seconds": round(time.monotonic() - self._began, 3), "event": event}
        line = json.dumps({**row, **fields}, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self.path.open("ab", buffering=0) as stream:
                stream.write(line.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events that stand whole; none where there is no log."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # two runs that write at once: a log is read for its gist, and nothing is scored by it
            continue
    return [row for row in rows if isinstance(row, dict)]
