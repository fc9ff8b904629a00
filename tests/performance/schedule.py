"""Estimates the cost of a comparison of all editors on 5 models: ``python -m tests.performance.schedule``.

The comparison has 10,000 cases and has not been run. The code of a run creates and schedules the units. The duration of
a unit is not measured: it is extrapolated from the times of editing and probing on a small model and a CPU.
"""

from __future__ import annotations

import argparse
import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.running.plan import BlockKey, Plan, WorkQueue, units_of
from rich.console import Console
from rich.table import Table

MEASURED = 0.135
"""Size of the model that the times were measured on, in billions of parameters."""
PROBING = 1.3
"""Seconds for the probes of a case on two cores, SmolLM2-135M, task capital: 2.0 before packed rows, times 0.64."""


@dataclass(frozen=True)
class Method:
    """The cost of an editor.

    Attributes:
        seconds: time of an edit on two cores with SmolLM2-135M.
        passes: forward passes of an edit that must run in sequence.
        joint_batch_size: edits that are computed together and share these passes.
    """

    seconds: float
    passes: float
    joint_batch_size: int = 1


METHODS: Mapping[str, Method] = {
    "alphaedit": Method(6.6, 80),
    "alphaedit-blue": Method(11.0, 155),
    "blue": Method(11.0, 155),
    "bird": Method(8.0, 10, joint_batch_size=8),
    "crispedit": Method(4.0, 75),
    "destroyed": Method(0.1, 0),
    "emmet": Method(6.3, 80),
    "encore": Method(6.0, 80),
    "ft": Method(2.0, 75),
    "ft-l": Method(3.2, 75),
    "ft-m": Method(2.0, 75),
    "ft-w": Method(2.0, 75),
    "grace": Method(2.0, 50),
    "ike": Method(0.1, 0),
    "in-context": Method(0.0, 0),
    "kn": Method(76.0, 60),
    "locft": Method(2.3, 75),
    "lora": Method(4.0, 75),
    "logit-bias": Method(0.1, 2),
    "memit": Method(6.3, 80),
    "memit-seq": Method(6.6, 80),
    "memoir": Method(9.0, 150),
    "memory-prompt": Method(0.0, 0),
    "mend": Method(0.5, 3),
    "parrot": Method(0.1, 1),
    "pmet": Method(12.0, 90),
    "r-rome": Method(4.0, 10, joint_batch_size=8),
    "random": Method(4.0, 10, joint_batch_size=8),
    "rome": Method(4.0, 10, joint_batch_size=8),
    "stableedit": Method(1.5, 3),
    "ultraedit": Method(0.6, 3),
    "wise": Method(8.0, 120),
}
MODELS = {"gpt2-xl": (1.5, 48), "gpt-j-6b": (6.1, 28), "llama-2-7b": (6.7, 32), "llama-3-8b": (8.0, 32),
          "qwen2.5-7b": (7.6, 28)}  # fmt: skip
"""Size in billions of parameters and number of layers, by model."""


@dataclass(frozen=True)
class Assumptions:
    """Quantities that are assumed, not measured.

    Attributes:
        cases: number of cases per model.
        gpu_speedup: speed of a GPU relative to two cores.
        layer_ms: minimum time of a layer in one forward pass, in milliseconds.
        probe_passes: forward passes in sequence when a case is probed.
        read_gb_per_second: rate at which weights are read, with two bytes per parameter.
        verify_gb_per_second: rate at which weights are hashed on the GPU.
        prepare_minutes: time in which one worker prepares all editors for a model.
        price: US dollars per GPU-hour.
    """

    cases: int = 10_000
    gpu_speedup: float = 400.0
    layer_ms: float = 0.6
    probe_passes: float = 8.0
    read_gb_per_second: float = 1.0
    verify_gb_per_second: float = 100.0
    prepare_minutes: float = 15.0
    price: float = 2.0

    def table(self) -> Table:
        """Return the assumptions as a table."""
        table = Table(title="Assumptions", title_justify="left")
        table.add_column("quantity")
        table.add_column("value", justify="right")
        for name, value in (
            ("cases, editors, models", f"{self.cases:,}, {len(METHODS)}, {len(MODELS)}"),
            ("speed of a GPU relative to two cores", f"{self.gpu_speedup:.0f}"),
            ("minimum time per layer and forward pass", f"{self.layer_ms} ms"),
            ("sequential passes to probe a case", f"{self.probe_passes:.0f}"),
            ("reading weights, two bytes per parameter", f"{self.read_gb_per_second:.0f} GB/s"),
            ("hashing weights on the GPU", f"{self.verify_gb_per_second:.0f} GB/s"),
            ("preparing all editors for a model, by one worker", f"{self.prepare_minutes:.0f} min"),
            ("price of a GPU", f"{self.price:.2f} $/h"),
        ):
            table.add_row(name, value)
        return table

    def seconds(self, cores: float, passes: float, size: float, layers: int) -> float:
        """Return the time of a piece of work on a GPU, at least the time of its sequential passes.

        Args:
            cores: its seconds on two cores with the measured model.
            passes: its forward passes in sequence.
            size: billions of parameters of the model.
            layers: layers of the model.
        """
        return max(cores * size / MEASURED / self.gpu_speedup, passes * layers * self.layer_ms / 1000)


@dataclass(frozen=True)
class Outcome:
    """Hours from start to end, and GPU-hours by activity."""

    hours: float
    gpu_hours: Mapping[str, float]


def simulate(workers: int, assumed: Assumptions) -> Outcome:
    """Simulate all models in sequence, each with all workers."""
    total, spent = 0.0, Counter[str]()
    ids = {"facts": [str(i) for i in range(assumed.cases)]}
    plan = Plan({}, ids, {name: method.joint_batch_size for name, method in METHODS.items()}, {})
    units = units_of(plan, RunSettings())
    for size, layers in MODELS.values():
        loading, preparing = 2 * size / assumed.read_gb_per_second, 60 * assumed.prepare_minutes
        ready = loading + preparing
        spent["loading"] += workers * loading
        spent["preparation (others idle)"] += workers * preparing
        probing = assumed.seconds(PROBING, assumed.probe_passes, size, layers)
        queue, last = WorkQueue(units), dict[int, BlockKey]()
        free = [(ready, number) for number in range(workers)]
        while queue:
            now, number = heapq.heappop(free)
            block, unit = last.get(number), queue.take(number)
            last[number] = unit.block
            method, count = METHODS[unit.editor], len(unit.indices)
            edits = count * assumed.seconds(method.seconds, method.passes, size, layers)
            probes = count * probing
            unedited = 0.0 if unit.block == block else probes
            spent["KN edits" if unit.editor == "kn" else "other edits"] += edits
            spent["probing"] += probes
            # The weights of a layer after each case, and all weights after each unit.
            verification = (count / layers + 1) * 2 * size / assumed.verify_gb_per_second
            spent["verification"] += verification
            spent["unedited model"] += unedited
            heapq.heappush(free, (now + edits + probes + unedited + verification, number))
        ends = [end for end, _ in free]
        spent["final wait"] += sum(max(ends) - end for end in ends)
        total += max(ends)
    return Outcome(total / 3600, {activity: seconds / 3600 for activity, seconds in spent.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,8,64,256", help="numbers of GPUs, comma-separated")
    parser.add_argument("--cases", type=int, default=Assumptions.cases)
    args = parser.parse_args()
    assumed = Assumptions(cases=args.cases)
    found = {workers: simulate(workers, assumed) for workers in map(int, args.workers.split(","))}
    table = Table(title="Estimate", title_justify="left")
    for column in ("GPUs", "days", "GPU-hours", "$", *next(iter(found.values())).gpu_hours):
        table.add_column(column, justify="right")
    for workers, outcome in found.items():
        total = sum(outcome.gpu_hours.values())
        shares = [f"{100 * hours / total:.1f}%" for hours in outcome.gpu_hours.values()]
        cost = f"{total * assumed.price:,.0f}"
        table.add_row(str(workers), f"{outcome.hours / 24:.2f}", f"{total:,.0f}", cost, *shares)
    complete = sum(2 * size for size, _ in MODELS.values()) / 5 / 3600  # copied to the CPU and hashed there at 5 GB/s
    out = Console(width=150)
    out.print(assumed.table())
    out.print(table)
    more = complete * assumed.cases * len(METHODS)
    out.print(f"copying and hashing all weights on the CPU after every case: {more:,.0f} GPU-hours more")


if __name__ == "__main__":
    main()
