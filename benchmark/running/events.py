"""The event log of a run, ``events.jsonl``: one JSON line per event, read by scripts and by ``knbench status``.

An event has the time of day, which can decrease when the clock is set, and the seconds since its run began, which never
decrease. ``schemas/event.schema.json`` describes the fields of each event.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
"""File name of the log in the folder that a run writes to."""


class EventLog:
    """Appends events to a log.

    Several starts of a run share a file, and the field ``run`` distinguishes them. An incomplete last line, which an
    interrupted write leaves, is removed when the log is opened.

    Example: ``log = EventLog(path); log.note("unit_started", worker=0)``

    Args:
        path: the file; created with its folder if it does not exist.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, uuid.uuid4().hex[:12]
        self._start = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)

    def note(self, event: str, **fields: Any) -> None:
        """Append an event.

        Args:
            event: its name, one of those in the schema.
            **fields: its other fields, as JSON values.

        Raises:
            OSError: the event cannot be written. An incomplete line is removed when the log is opened again.
            ValueError: a field is NaN or infinite.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        row = {"run": self.run, "time": now, "seconds": round(time.monotonic() - self._start, 3), "event": event}
        line = json.dumps({**row, **fields}, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self.path.open("ab", buffering=0) as stream:
                stream.write(line.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the complete events of a log, or an empty list if the file does not exist.

    Lines that are not valid JSON objects are skipped.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # two runs wrote at once; a lost line does not matter, because nothing is scored by the log
            continue
    return [row for row in rows if isinstance(row, dict)]
