"""Kills ``knbench run`` on the default model at random moments: ``python -m tests.performance.chaos`` (20 minutes).

After each kill the same command runs again. Its records and results must equal those of an undisturbed run.
``tests/e2e/test_chaos.py`` is the same test on a tiny model.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.files import json_lines, load_result

MOMENTS, SEED = 20, "chaos on the default model"
KINDS = {"records.jsonl": "record", "checkpoints.jsonl": "checkpoint"}
REGIMES = {"single": (), "sequential": ("--sequential", "4", "--checkpoints", "2")}


def start(output: Path, regime: str) -> subprocess.Popen[bytes]:
    """Start a run that takes little longer than loading the model."""
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


def outputs(output: Path) -> dict[str, object]:
    """Return the records and summaries of a run by file, without timings."""
    lines = {
        str(path.relative_to(output)): [{k: v for k, v in row.items() if k != "timings"} for row in json_lines(path)]
        for name, kind in KINDS.items()
        for path in sorted(output.rglob(name))
    }
    return {**lines, **{path.parent.name: load_result(path)["summary"] for path in sorted(output.rglob("result.json"))}}


def count_lines(output: Path) -> int:
    """Return the number of record and checkpoint lines written so far."""
    return sum(path.read_bytes().count(b"\n") for name in KINDS for path in output.rglob(name))


def main() -> None:
    """Kill and resume runs, compare their outputs, print each outcome, and exit with 1 if any output differs."""
    rng, equal = random.Random(SEED), 0
    with tempfile.TemporaryDirectory() as folder:
        for regime in REGIMES:
            whole = Path(folder) / regime
            start(whole, regime).wait()
            started = time.monotonic()
            shutil.rmtree(whole)
            start(whole, regime).wait()
            seconds, expected = time.monotonic() - started, outputs(whole)
            print(f"{regime}: {seconds:.1f} s undisturbed, {count_lines(whole)} lines", flush=True)
            for number in range(MOMENTS // len(REGIMES)):
                output = Path(folder) / f"{regime}-{number}"
                process = start(output, regime)
                time.sleep(seconds * rng.uniform(0.4, 0.98))
                process.kill()
                process.wait()
                lines = count_lines(output)
                status = start(output, regime).wait()
                same = status == 0 and outputs(output) == expected
                equal += same
                print(f"  killed after {lines:2} lines: {'the same' if same else 'DIFFERENT'}", flush=True)
    print(f"{equal} of {MOMENTS} ended with the records of the undisturbed run")
    raise SystemExit(equal != MOMENTS)


if __name__ == "__main__":
    main()
