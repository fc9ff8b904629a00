"""``knbench status``: show the progress of runs, read from their folders alone. Takes no lock and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import click

from ..core.errors import KnbenchError
from ..core.files import json_text
from ..results.documents import load_manifest
from ..results.io import CHECKPOINT, CHECKPOINTS, MANIFEST, RECORD, RECORDS, RESULT, LineKind, LineT, parse_lines
from ..results.runs import folders_without_manifest
from ..running.events import EVENTS, read_events
from ..running.owner import is_owned
from .options import JSON_FLAG

State = Literal["finished", "running", "waiting", "stopped"]


@dataclass(frozen=True)
class RunStatus:
    """Progress of one editor on one task.

    Attributes:
        folder: the run folder.
        state: ``finished``; ``running`` if a case is being measured; ``waiting`` if a process holds the folder and
            measures another one; ``stopped`` otherwise.
        cases: number of cases of the run.
        done: number of cases that were measured.
        failed: number of these whose edit or measurement failed.
        workers: number of processes that measure the run.
        seconds_a_case: mean time of a case, or None before the first one.
        seconds_left: estimate of the remaining time; None if it is unknown or the run is finished.
    """

    folder: str
    editor: str
    task: str
    state: State
    cases: int
    done: int
    failed: int
    workers: int
    seconds_a_case: float | None
    seconds_left: float | None


@click.command("status", epilog="\b\nExamples:\n  knbench status runs/all\n  knbench status runs --json\n")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@JSON_FLAG
def status_command(folders: Sequence[Path], as_json: bool) -> None:
    """Show the progress of runs: finished and failed cases, workers, seconds per case, remaining time.

    FOLDERS are searched recursively for run folders. While a process holds a run, the folders that it measures are
    running and its other folders are waiting. A stopped run continues when its command is started again.
    """
    found = [path.parent for folder in folders for path in sorted(folder.rglob(MANIFEST))]
    logs = {root: read_events(root / EVENTS) for root in {folder.parents[1] for folder in found}}
    rows = [status_of(folder, logs[folder.parents[1]]) for folder in found if (folder / RECORDS).exists()]
    for folder in folders_without_manifest(folders):
        click.echo(f"note: {folder} has no {MANIFEST} and is left out", err=True)
    if not rows:
        raise KnbenchError(f"no run below {', '.join(map(str, folders))}; make one with: knbench run --output ...")
    if as_json:
        click.echo(json_text([asdict(row) for row in rows]), nl=False)
        return
    from .terminal import print_table

    header = ["editor", "task", "state", "cases", "failed", "workers", "s / case", "time left"]
    print_table("runs", header, [_cells(row) for row in rows])
    done, cases, failed = (sum(getattr(row, name) for row in rows) for name in ("done", "cases", "failed"))
    remaining = [row.seconds_left for row in rows if row.state != "finished"]
    known = [seconds for seconds in remaining if seconds is not None]
    total = f", time left {_format_duration(sum(known))}" if known and len(known) == len(remaining) else ""
    click.echo(f"{done} of {cases} cases done, {failed} of them failed, {cases - done} remaining{total}")


def _cells(row: RunStatus) -> list[Any]:
    return [
        row.editor,
        row.task,
        row.state,
        f"{row.done}/{row.cases}",
        row.failed,
        row.workers,
        "" if row.seconds_a_case is None else f"{row.seconds_a_case:.1f}",
        _format_duration(row.seconds_left),
    ]


def _format_duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def status_of(folder: Path, log: Sequence[Mapping[str, Any]]) -> RunStatus:
    """Return the progress of a run.

    The remaining time is the mean time of the measured cases times the number of remaining cases, divided by the number
    of workers. In a sequential run, which one worker measures, it includes the cases that are measured again at
    checkpoints. The estimate does not depend on the time of day.

    Args:
        folder: the run folder.
        log: events of the command that the run belongs to.

    Raises:
        KnbenchError: a file is broken.
    """
    manifest = load_manifest(folder / MANIFEST)
    editor, task, protocol = manifest.editor.name, manifest.task.name, manifest.protocol
    records = _complete_lines(folder / RECORDS, RECORD)
    edits = [t for record in records if (t := record.timings.edit_seconds) is not None]
    probes = [t for record in records if (t := record.timings.probe_seconds) is not None]
    probe_seconds, edit_seconds = _mean(probes), _mean(edits)
    measured_again = len(_complete_lines(folder / CHECKPOINTS, CHECKPOINT))
    to_measure_again = sum(protocol.checkpoints)
    finished = (folder / RESULT).exists() and len(records) == protocol.cases and measured_again == to_measure_again
    seconds_per_case = None
    if edit_seconds is not None or probe_seconds is not None:
        seconds_per_case = (edit_seconds or 0.0) + (probe_seconds or 0.0)
    workers = 1 if protocol.checkpoints else _workers(log)
    seconds_left = None
    if seconds_per_case is not None and not finished:
        remaining = (protocol.cases - len(records)) * seconds_per_case
        seconds_left = (remaining + (to_measure_again - measured_again) * (probe_seconds or 0.0)) / workers
    return RunStatus(
        folder=str(folder),
        editor=editor,
        task=task,
        state="finished" if finished else _unfinished_state(folder, (editor, task) in _in_progress(log)),
        cases=protocol.cases,
        done=len(records),
        failed=sum(record.failure is not None for record in records),
        workers=workers,
        seconds_a_case=seconds_per_case,
        seconds_left=seconds_left,
    )


def _unfinished_state(folder: Path, in_progress: bool) -> State:
    if not is_owned(folder):
        return "stopped"
    return "running" if in_progress else "waiting"


def _complete_lines(path: Path, kind: LineKind[LineT]) -> list[LineT]:
    """Return the complete lines of a file, without a last line that is still being written.

    Raises:
        KnbenchError: a complete line is broken.
    """
    data = path.read_bytes() if path.exists() else b""
    return parse_lines(path, data[: data.rfind(b"\n") + 1], kind)


def _workers(log: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of workers of the last start of a run."""
    starts = [event for event in log if event.get("event") == "run_started"]
    return int(starts[-1]["workers"]) if starts else 1


def _in_progress(log: Sequence[Mapping[str, Any]]) -> set[tuple[Any, Any]]:
    """Return the pairs of editor and task with a unit that was started and not finished."""
    last_event = {
        (event.get("editor"), event.get("task"), event.get("first")): event["event"]
        for event in log
        if event.get("event") in ("unit_started", "unit_finished")
    }
    return {(editor, task) for (editor, task, _), name in last_event.items() if name == "unit_started"}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
