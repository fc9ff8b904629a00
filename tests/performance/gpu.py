"""Compares every editor on a device with the CPU, and measures it there: ``make gpu``.

For each editor, one line gives

- the relative difference between the updates of the weights on the CPU and on the device, in float32,
- the difference of the new target's log-probability after the edit, in float32,
- the same difference for bfloat16 on the device,
- edits per minute and the peak memory on the device.

Then two local workers run on two devices, if there are two. ``--device cpu`` runs all of it without a GPU: the parity
is then that of two models on the CPU. The exit status is 1 if an editor fails on the device or differs in float32.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import first_line
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import Case, derived_seed
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, build_editor, editor_classes
from knbench.benchmark.models.device_state import synchronise
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.probing.baseline import select_cases
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.running.attempts import seeded
from knbench.benchmark.running.environment import PeakMemory
from knbench.benchmark.running.preparation import prepare_editor
from rich.console import Console
from rich.table import Table

TOLERANCE = 0.05
"""Largest difference in nats of a log-probability in float32. Optimisations amplify rounding."""


@dataclass(frozen=True)
class Outcome:
    """One edit on one device.

    Attributes:
        edit: the edit, on the device.
        logprob: log-probability of the new target after it, in nats.
        seconds: median time of an edit.
        peak_mb: peak memory of the device, in MiB.
    """

    edit: Edit
    logprob: float
    seconds: float
    peak_mb: float


def measure(cls: Any, lm: LanguageModel, case: Case, rounds: int) -> Outcome:
    """Prepare an editor, edit one case some times, and measure it."""
    editor, _ = build_editor(cls, lm)
    prepare_editor(editor, lm, 0, Reporter(), lm.fingerprint())
    seconds = []
    peak = PeakMemory(str(lm.device))
    for number in range(rounds + 1):
        synchronise(lm.device)
        start = time.perf_counter()
        with seeded(derived_seed(0, editor.name, case.id)):
            edit = editor.edit(lm, [case.request])
        synchronise(lm.device)
        seconds += [time.perf_counter() - start] if number or not rounds else []  # the first one warms up
    prober = make_prober(lm, new_tokens=0)
    probe = next(probe for probe in case.probes if probe.criterion == "reliability")
    with edit.applied(lm):
        (found,) = prober.observe([probe])
    assert found.target_answer is not None
    return Outcome(edit, found.target_answer.logprob, statistics.median(seconds), peak.megabytes())


def update_difference(lm: LanguageModel, one: Edit, two: Edit) -> float:
    """Return the distance between two updates of the weights, relative to the first, (0 without weights)."""
    distance = size = 0.0
    for name in one.weights:
        before = lm.parameter(name).detach().double().cpu()
        first, second = (edit.weights[name].detach().double().cpu() - before for edit in (one, two))
        distance += float((first - second).square().sum())
        size += float(first.square().sum())
    return (distance / size) ** 0.5 if size else distance**0.5


def editor_row(cls: Any, models: dict[str, LanguageModel], case: Case, rounds: int) -> tuple[list[str], bool]:
    """Return the cells of an editor, and whether it agrees with the CPU in float32."""
    try:
        cpu = measure(cls, models["cpu"], case, 0)
        single = measure(cls, models["float32"], case, rounds)
        change = abs(single.logprob - cpu.logprob)
        cells = [f"{update_difference(models['cpu'], cpu.edit, single.edit):.1e}", f"{change:.1e}"]
    except Exception as error:
        return [cls.name, *["-"] * 5, f"{type(error).__name__}: {first_line(error)}"[:60]], False
    try:
        half = measure(cls, models["bfloat16"], case, 0)
        cells.append(f"{abs(half.logprob - cpu.logprob):.1e}")
    except Exception as error:
        cells.append(type(error).__name__)
    cells += [f"{60 / single.seconds:.0f}", f"{single.peak_mb:.0f}", "" if change <= TOLERANCE else "differs"]
    return [cls.name, *cells], change <= TOLERANCE


def two_workers(model: str, devices: int) -> str:
    """Run two local workers on two devices, and return one line."""
    if devices < 2:
        return f"two workers on two devices: not run, there are {devices}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "knbench.benchmark", "run", "--model", model, "--editors", "rome,ft"]
        command += ["--tasks", "capital", "--limit", "32", "--device", "cuda", "--executor", "local", "--workers", "2"]
        start = time.perf_counter()
        done = subprocess.run([*command, "--output", folder], capture_output=True, text=True)
    outcome = "finished" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    return f"two workers on two devices: {outcome} in {time.perf_counter() - start:.0f} s"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--editors", default="all", help="comma-separated names, or all")
    parser.add_argument("--rounds", type=int, default=3, help="timed edits per editor")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU; use --device cpu")
    models = {
        "cpu": load_model(args.model),
        "float32": load_model(args.model, args.device),
        "bfloat16": load_model(args.model, args.device, dtype="bfloat16"),
    }
    known = RunSettings(known_only=True, limit=1)
    (case,) = select_cases(make_prober(models["cpu"], new_tokens=0), registry.task("capital"), known)
    classes = editor_classes()
    names = list(classes) if args.editors == "all" else args.editors.split(",")
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device
    table = Table(title=f"{args.model} on {device}, torch {torch.__version__}", title_justify="left")
    for column in ("editor", "update", "log p, float32", "log p, bfloat16", "edits/min", "peak MB", "note"):
        table.add_column(column, justify="left" if column in ("editor", "note") else "right")
    agree = True
    for name in names:
        cells, agrees = editor_row(classes[name], models, case, args.rounds)
        table.add_row(*cells)
        agree = agree and agrees
        print(" ".join(cells), file=sys.stderr, flush=True)
    Console(width=130).print(table)
    print(two_workers(args.model, torch.cuda.device_count()))
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
