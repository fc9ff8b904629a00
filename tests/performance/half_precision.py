"""Compares probing in bfloat16 with float32 on a CPU: speed, and verdicts that change.

Usage: python -m tests.performance.half_precision [--cases 200] [--threads 1]

With one thread, seconds of the CPU are measured. Verdicts are what the measures are computed from: whether the target
is more probable than its rival, whether it is the most probable answer, and the continuation.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.records import Observation
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.probing.prober import make_prober

TASKS = ("capital", "det-noun-agreement")


def verdicts(observation: Observation) -> dict[str, object]:
    """Return the verdicts of a probe by name."""
    found: dict[str, object] = {"most probable": not any(observation.target.ranks)}
    if observation.rival is not None:
        found["before its rival"] = observation.target.logprob > observation.rival.logprob
    if observation.generated is not None:
        found["first token"] = observation.top_id
        found["continuation"] = observation.generated
    return found


def main() -> None:
    """Print seconds per case in both types, and the number of verdicts that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="number of cases, half of each task")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    probers = [make_prober(load_model("smollm2-135m", dtype=dtype)) for dtype in ("float32", "bfloat16")]
    for prober in probers:
        prober.observe(registry.task("capital").cases[0].probes)
    seconds, changed, compared, cases = [0.0, 0.0], Counter[str](), Counter[str](), 0
    for name in TASKS:
        for case in registry.task(name).cases[: args.cases // len(TASKS)]:
            found = []
            for number, prober in enumerate(probers):
                start = clock()
                found.append(prober.observe(case.probes))
                seconds[number] += clock() - start
            cases += 1
            for a, b in zip(*found, strict=True):
                for verdict, value in verdicts(a).items():
                    compared[verdict] += 1
                    changed[verdict] += value != verdicts(b)[verdict]
    single, half = (value / cases for value in seconds)
    print(f"{cases} cases: float32 {single:.2f} s, bfloat16 {half:.2f} s a case, ratio {single / half:.2f}")
    for verdict, count in compared.items():
        print(f"{verdict}: {changed[verdict]} of {count} differ ({100 * changed[verdict] / count:.1f}%)")


if __name__ == "__main__":
    main()
