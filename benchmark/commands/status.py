"""``knbench status``: how far runs are, read from their folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout

from ..core.errors import KnbenchError
from ..core.files import json_text
from ..results.io import CHECKPOINTS, MANIFEST, RECORDS, RESULT, read_json, read_records
from ..running.events import EVENTS, read_events


@click.command("status", epilog="\b\nExamples:\n  knbench status runs/all\n  knbench status runs --json\n")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of a table.")
def status_command(folders: Sequence[Path], as_json: bool) -> None:
    """Tell how far runs are: cases done, failed and left, workers, seconds a case, time left.

    FOLDERS are run folders, at any depth. While a process holds a folder, what it measures just now is running and the
    rest is waiting; what is stopped goes on when its command is started again.
    """
    found = [path.parent for folder in folders for path in sorted(folder.rglob(MANIFEST))]
    logs = {root: read_events(root / EVENTS) for root in {folder.parents[1] for folder in found}}
    rows = [status_of(folder, logs[folder.parents[1]]) for folder in found if (folder / RECORDS).exists()]
    if not rows:
        raise KnbenchError(f"no run below {', '.join(map(str, folders))}; make one with: knbench run --output ...")
    if as_json:
        click.echo(json_text(rows), nl=False)
        return
    from .terminal import print_table

    def left(seconds: float | None) -> str:
        return "" if seconds is None else str(timedelta(seconds=round(seconds)))

    table = [
        [r["editor"], r["task"], r["state"], f"{r['done']}/{r['cases']}", r["failed"], r["workers"],
         "" if r["seconds_a_case"] is None else f"{r['seconds_a_case']:.1f}", left(r["seconds_left"])]
        for r in rows
    ]  # fmt: skip
    print_table("runs", ["editor", "task", "state", "cases", "failed", "workers", "s / case", "time left"], table)
    done, cases, failed = (sum(row[key] for row in rows) for key in ("done", "cases", "failed"))
    known = [row["seconds_left"] for row in rows if row["state"] != "finished"]
    whole = "" if None in known or not known else f", time left {left(sum(known))}"
    click.echo(f"{done} of {cases} cases done, {failed} of them failed, {cases - done} left{whole}")


def status_of(folder: Path, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far one run is, with the help of the log of the command that it belongs to.

    Time left counts what was measured so far for a case, and for sequential edits the measuring at checkpoints; it is
    shared by the workers, of whom the log of the run tells, but for sequential edits, which are one worker's. Nothing
    here looks at the time of day.

    Raises:
        KnbenchError: a file is broken.
    """
    manifest = read_json(folder / MANIFEST)
    place = manifest["editor"]["name"], manifest["task"]["name"]
    records = _whole_lines(folder / RECORDS, "record")
    cases = manifest["protocol"]["cases"]
    edits = [t for r in records if (t := r["timings"].get("edit_seconds")) is not None]
    probes = [t for r in records if (t := r["timings"].get("probe_seconds")) is not None]
    probe, edit = _mean(probes), _mean(edits)
    again = sum(manifest["protocol"].get("checkpoints") or [])
    measured = len(_whole_lines(folder / CHECKPOINTS, "checkpoint")) if (folder / CHECKPOINTS).exists() else 0
    pace = None if edit is None and probe is None else (edit or 0.0) + (probe or 0.0)
    finished = (folder / RESULT).exists() and len(records) == cases and measured == again
    left = None if pace is None or finished else (cases - len(records)) * pace + (again - measured) * (probe or 0.0)
    workers = 1 if again else _workers(log)
    held = "running" if place in _under_way(log) else "waiting"
    return {
        "folder": str(folder),
        "editor": place[0],
        "task": place[1],
        "state": "finished" if finished else held if _held(folder) else "stopped",
        "cases": cases,
        "done": len(records),
        "failed": sum(record["failure"] is not None for record in records),
        "workers": workers,
        "seconds_a_case": pace,
        "seconds_left": left and left / workers,
    }


def _whole_lines(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines that stand whole; one that is just being written does not count."""
    try:
        return read_records(path, kind)
    except KnbenchError as error:
        if "was cut off" not in str(error):
            raise
        return [{"failure": None, "timings": {}} for _ in range(path.read_bytes().count(b"\n"))]


def _workers(log: Sequence[Mapping[str, Any]]) -> int:
    """Return how many workers the run had when it was started last."""
    starts = [event for event in log if event.get("event") == "run_started"]
    return int(starts[-1]["workers"]) if starts else 1


def _under_way(log: Sequence[Mapping[str, Any]]) -> set[tuple[Any, Any]]:
    """Return the editors and tasks of which a unit was begun and not finished."""
    units = {(event.get("editor"), event.get("task"), event.get("first")): event.get("event") for event in log
             if event.get("event") in ("unit_started", "unit_finished")}  # fmt: skip
    return {(editor, task) for (editor, task, _), last in units.items() if last == "unit_started"}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _held(folder: Path) -> bool:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
