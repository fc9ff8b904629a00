"""Kills ``knbench run`` on the default model at random moments: ``python -m tests.performance.chaos`` (20 minutes).

Each time the same command is started again and must end with the records of a run that was left in peace. The test of
the same on a tiny model is ``tests/e2e/test_chaos.py``.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from knbench.benchmark.results.documents import load_result
from knbench.benchmark.results.io import read_records

MOMENTS, SEED = 20, "chaos on the default model"
KINDS = {"records.jsonl": "record", "checkpoints.jsonl": "checkpoint"}
REGIMES = {"single": (), "sequential": ("--sequential", "4", "--checkpoints", "2")}


def start(output: Path, regime: str) -> subprocess.Popen[bytes]:
    """Start a run that takes little more than loading the model does."""
    command = [
        sys.executable,
        "-m",
        "knbench.benchmark",
        "run",
        "--editors",
        "none,ft",
        "--tasks",
        "anaphor-gender",
    ]
    limited = ["--limit", "4", "--threads", "1", "--editor-args", "ft.steps=3", "--output", str(output)]
    return subprocess.Popen(
        [*command, *limited, *REGIMES[regime]], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def found(output: Path) -> dict[str, object]:
    """Return what a run wrote, without timings."""
    lines = {
        str(path.relative_to(output)): [
            {k: v for k, v in row.items() if k != "timings"} for row in read_records(path, kind)
        ]
        for name, kind in KINDS.items()
        for path in sorted(output.rglob(name))
    }
    return {**lines, **{path.parent.name: load_result(path)["summary"] for path in sorted(output.rglob("result.json"))}}


def written(output: Path) -> int:
    """Return how many lines there are so far."""
    return sum(path.read_bytes().count(b"\n") for name in KINDS for path in output.rglob(name))


def main() -> None:
    """Kill, start again, compare; say how it went and exit with 1 where anything differs."""
    rng, good = random.Random(SEED), 0
    with tempfile.TemporaryDirectory() as folder:
        for regime in REGIMES:
            whole = Path(folder) / regime
            start(whole, regime).wait()
            began = time.monotonic()
            shutil.rmtree(whole)
            start(whole, regime).wait()
            took, expected = time.monotonic() - began, found(whole)
            print(f"{regime}: {took:.1f} s undisturbed, {written(whole)} lines", flush=True)
            for number in range(MOMENTS // len(REGIMES)):
                output = Path(folder) / f"{regime}-{number}"
                process = start(output, regime)
                time.sleep(took * rng.uniform(0.4, 0.98))
                process.kill()
                process.wait()
                left = written(output)
                status = start(output, regime).wait()
                same = status == 0 and found(output) == expected
                good += same
                print(f"  killed with {left:2} lines written: {'the same' if same else 'DIFFERENT'}", flush=True)
    print(f"{good} of {MOMENTS} ended with the records of the undisturbed run")
    raise SystemExit(good != MOMENTS)


if __name__ == "__main__":
    main()
