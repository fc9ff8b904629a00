"""Measures the overhead of a run beyond editing and probing, per executor: ``python -m tests.performance.overhead``.

Each row times ``knbench run`` in separate processes from start to end. The time includes Python imports, model loading,
hashing of the weights after every case, writing and scoring.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knbench.benchmark.running.events import EVENTS, read_events
from rich.console import Console
from rich.table import Table

CASES = 40


def command(cases: int, output: Path, *more: str, editor: str = "ft") -> list[str]:
    """Return the arguments of a run on the default model.

    FT is the fastest editor that trains, so overhead is most visible with it.
    """
    limit = ["--limit", str(cases), "--output", str(output)]
    return ["run", "--editors", editor, "--tasks", "capital", *limit, *more]


def executor_row(name: str, workers: int, cases: int, editor: str = "ft") -> dict[str, Any]:
    """Run with an executor; return its total, start-up and idle times in seconds."""
    more = [] if name == "serial" else ["--workers", str(workers)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = command(cases, Path(folder), "--threads", "1", "--executor", name, *more, editor=editor)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "knbench.benchmark", *arguments], check=True, capture_output=True)
        total = time.perf_counter() - start
        events = read_events(Path(folder) / EVENTS)
    measuring = events[-1]["seconds"]
    return {
        "executor": name,
        "workers": workers,
        "total": total,
        "startup": total - measuring,
        "idle": _idle_seconds(events),
    }


def _idle_seconds(events: list[dict[str, Any]]) -> float:
    """Return the idle seconds between the units of each worker, summed over the workers."""
    free: dict[int, float] = {}
    idle = 0.0
    for event in events:
        if event["event"] == "unit_started":
            idle += event["seconds"] - free.get(event["worker"], event["seconds"])
        elif event["event"] == "unit_finished":
            free[event["worker"]] = event["seconds"]
    return idle


def timed_share(cases: int) -> None:
    """Run in this process and print the seconds spent on editing and on probing as JSON."""
    from knbench.benchmark.commands.main import main
    from knbench.benchmark.probing.base import Prober
    from knbench.editors.ft import FineTuning

    spent = {"editing": 0.0, "probing": 0.0}

    def timed(phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[phase] += time.perf_counter() - start

        return call

    for cls, name, phase in ((FineTuning, "edit", "editing"), (Prober, "observe", "probing")):
        setattr(cls, name, timed(phase, getattr(cls, name)))
    with tempfile.TemporaryDirectory() as folder:
        main(command(cases, Path(folder), "--threads", "1", "--executor", "serial", "--json"))
    print("\n" + json.dumps(spent))


def share_line(cases: int) -> str:
    """Return one line with the shares of a run's time spent on editing, probing and everything else."""
    start = time.perf_counter()
    arguments = ["--share", "--cases", str(cases)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.performance.overhead", *arguments], check=True, capture_output=True, text=True
    )
    total = time.perf_counter() - start
    spent = json.loads(done.stdout.splitlines()[-1])
    rest = total - sum(spent.values())
    parts = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in spent.items())
    return f"{cases} cases of FT, SmolLM2-135M, 1 thread: {total:.1f} s: {parts}, other {100 * rest / total:.1f}%"


def overhead_table(cases: int = CASES, editor: str = "ft") -> Table:
    """Return a table that compares executors.

    The overhead of an executor is its start-up time in excess of the serial run plus the mean idle time of a worker, as
    a share of the total time. Total times are shown as well, but other load on the machine affects them more than the
    executor does.
    """
    table = Table(
        title=f"Executors, {cases} cases of {editor}, SmolLM2-135M, 1 thread per worker", title_justify="left"
    )
    for column in ("executor", "workers", "total s", "start-up s", "idle between units s", "overhead"):
        table.add_column(column, justify="left" if column == "executor" else "right")
    kinds = [("serial", 1), ("local", 2), *([("ray", 2)] if find_spec("ray") else [])]
    rows = [executor_row(name, workers, cases, editor) for name, workers in kinds]
    for row in rows:
        idle = row["idle"] / row["workers"]
        overhead = (max(0.0, row["startup"] - rows[0]["startup"]) + idle) / row["total"]
        seconds = [f"{row['total']:.1f}", f"{row['startup']:.1f}", f"{idle:.2f}"]
        table.add_row(row["executor"], str(row["workers"]), *seconds, f"{100 * overhead:.1f}%")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--editor", default="ft", help="editor to run")
    parser.add_argument(
        "--share",
        action="store_true",
        help="run in this process, print the editing and probing times as JSON, and exit",
    )
    args = parser.parse_args()
    if args.share:
        timed_share(args.cases)
        return
    print(share_line(args.cases))
    Console(width=110).print(overhead_table(args.cases, args.editor))


if __name__ == "__main__":
    main()
