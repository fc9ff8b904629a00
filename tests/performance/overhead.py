"""What running costs besides editing and probing, by executor: ``python -m tests.performance.overhead``.

Every row is the command line in processes of its own, from its start to its end: Python's imports, loading the model,
hashing weights after every case, writing and scoring are all in it.
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
    """Return the arguments of a run on the default model; FT is the quickest editor that trains, and hides least."""
    limit = ["--limit", str(cases), "--output", str(output)]
    return ["run", "--editors", editor, "--tasks", "capital", *limit, *more]


def executor_row(name: str, workers: int, cases: int, editor: str = "ft") -> dict[str, Any]:
    """Run with an executor; return seconds: of the whole, until the first unit, and of waiting between units."""
    more = [] if name == "serial" else ["--workers", str(workers)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = command(cases, Path(folder), "--threads", "1", "--executor", name, *more, editor=editor)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "knbench.benchmark", *arguments], check=True, capture_output=True)
        whole = time.perf_counter() - began
        events = read_events(Path(folder) / EVENTS)
    measuring = events[-1]["seconds"]
    return {"executor": name, "workers": workers, "whole": whole, "start": whole - measuring, "waiting": _gaps(events)}


def _gaps(events: list[dict[str, Any]]) -> float:
    """Return the seconds between a worker's units, summed over the workers."""
    free: dict[int, float] = {}
    waited = 0.0
    for event in events:
        if event["event"] == "unit_started":
            waited += event["seconds"] - free.get(event["worker"], event["seconds"])
        elif event["event"] == "unit_finished":
            free[event["worker"]] = event["seconds"]
    return waited


def timed_share(cases: int) -> None:
    """Run in this process, and print as JSON how many seconds went into editing and into probing."""
    from knbench.benchmark.commands.main import main
    from knbench.benchmark.probing.causal import Prober
    from knbench.editors.ft import FineTuning

    spent = {"editing": 0.0, "probing": 0.0}

    def clocked(what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[what] += time.perf_counter() - began

        return call

    for cls, name, what in ((FineTuning, "edit", "editing"), (Prober, "observe", "probing")):
        setattr(cls, name, clocked(what, getattr(cls, name)))
    with tempfile.TemporaryDirectory() as folder:
        main(command(cases, Path(folder), "--threads", "1", "--json"))
    print("\n" + json.dumps(spent))


def share_line(cases: int) -> str:
    """Return how the time of a run is spent."""
    began = time.perf_counter()
    arguments = ["--share", "--cases", str(cases)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.performance.overhead", *arguments], check=True, capture_output=True, text=True
    )
    whole = time.perf_counter() - began
    spent = json.loads(done.stdout.splitlines()[-1])
    rest = whole - sum(spent.values())
    parts = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in spent.items())
    return f"{cases} cases of FT, SmolLM2-135M, 1 thread: {whole:.1f} s: {parts}, all else {100 * rest / whole:.1f}%"


def overhead_table(cases: int = CASES, editor: str = "ft") -> Table:
    """Compare executors.

    What one costs is the time until its first unit beyond that of a run without one, and what a worker waits between
    units. Whole times are shown too, but another program on the machine changes them more than an executor does.
    """
    table = Table(title=f"Executors, {cases} cases of {editor}, SmolLM2-135M, 1 thread a worker", title_justify="left")
    for column in ("executor", "workers", "whole s", "until the first unit s", "waiting between units s", "overhead"):
        table.add_column(column, justify="left" if column == "executor" else "right")
    kinds = [("serial", 1), ("local", 2), *([("ray", 2)] if find_spec("ray") else [])]
    rows = [executor_row(name, workers, cases, editor) for name, workers in kinds]
    for row in rows:
        waiting = row["waiting"] / row["workers"]
        overhead = (max(0.0, row["start"] - rows[0]["start"]) + waiting) / row["whole"]
        seconds = [f"{row['whole']:.1f}", f"{row['start']:.1f}", f"{waiting:.2f}"]
        table.add_row(row["executor"], str(row["workers"]), *seconds, f"{100 * overhead:.1f}%")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--editor", default="ft", help="whose runs the executors carry out")
    parser.add_argument("--share", action="store_true", help="run here, print editing and probing as JSON, and stop")
    args = parser.parse_args()
    if args.share:
        timed_share(args.cases)
        return
    print(share_line(args.cases))
    Console(width=110).print(overhead_table(args.cases, args.editor))


if __name__ == "__main__":
    main()
