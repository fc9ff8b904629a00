"""A comparison that nobody has run, worked through on paper: ``python -m tests.performance.schedule``.

10,000 cases, 12 editors, 5 models. The units are cut and handed out by the code that does so in a run; what a unit
takes is not measured but assumed, from what editing and probing take on a small model and on a processor.
"""

from __future__ import annotations

import argparse
import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.running.plan import BlockKey, Plan, Unit, WorkQueue, units_of
from rich.console import Console
from rich.table import Table

MEASURED = 0.135
"""Billions of parameters of the model that seconds were measured on."""
PROBING = 2.0
"""Seconds for a case's 14 probes on two cores, SmolLM2-135M, task capital."""


@dataclass(frozen=True)
class Method:
    """An editor: seconds of an edit on two cores with SmolLM2-135M, passes that follow one another, edits together."""

    seconds: float
    passes: float
    joint_batch_size: int = 1


METHODS: Mapping[str, Method] = {
    "alphaedit": Method(6.6, 80),
    "emmet": Method(6.3, 80),
    "ft": Method(2.0, 75),
    "ft-l": Method(3.2, 75),
    "ft-w": Method(2.0, 75),
    "in-context": Method(0.0, 0),
    "kn": Method(76.0, 60),
    "lora": Method(4.0, 75),
    "memit": Method(6.3, 80),
    "r-rome": Method(4.0, 10, joint_batch_size=8),
    "random": Method(4.0, 10, joint_batch_size=8),
    "rome": Method(4.0, 10, joint_batch_size=8),
}
MODELS = {"gpt2-xl": (1.5, 48), "gpt-j-6b": (6.1, 28), "llama-2-7b": (6.7, 32), "llama-3-8b": (8.0, 32),
          "qwen2.5-7b": (7.6, 28)}  # fmt: skip
"""Billions of parameters, and layers."""


@dataclass(frozen=True)
class Assumptions:
    """What is not known before somebody has done it."""

    cases: int = 10_000
    card_over_cores: float = 400.0
    layer_ms: float = 0.6
    probe_passes: float = 12.0
    read_gb_a_second: float = 1.0
    prepare_minutes: float = 15.0
    price: float = 2.0

    def table(self) -> Table:
        """Return them as a table."""
        found = Table(title="Assumptions", title_justify="left")
        found.add_column("what")
        found.add_column("value", justify="right")
        for what, value in (
            ("cases, editors, models", f"{self.cases:,}, {len(METHODS)}, {len(MODELS)}"),
            ("a card over two cores, at the same work", f"{self.card_over_cores:.0f} times"),
            ("least time of a layer in one pass, forwards", f"{self.layer_ms} ms"),
            ("passes that follow one another in probing a case", f"{self.probe_passes:.0f}"),
            ("reading weights, two bytes a parameter", f"{self.read_gb_a_second:.0f} GB/s"),
            ("preparing all editors for a model, by one worker", f"{self.prepare_minutes:.0f} min"),
            ("price of a card", f"{self.price:.2f} $/h"),
        ):
            found.add_row(what, value)
        return found

    def seconds(self, cores: float, passes: float, size: float, layers: int) -> float:
        """Return what work takes on a card: what it computes, and no less than its passes one after the other."""
        return max(cores * size / MEASURED / self.card_over_cores, passes * layers * self.layer_ms / 1000)


@dataclass(frozen=True)
class Outcome:
    """Hours from start to end, and card-hours by what they went into."""

    hours: float
    card_hours: Mapping[str, float]


def simulate(workers: int, assumed: Assumptions) -> Outcome:
    """Work through all models, one after the other, each with all workers."""
    whole, spent = 0.0, Counter[str]()
    ids = {"facts": [str(i) for i in range(assumed.cases)]}
    plan = Plan({}, ids, {name: method.joint_batch_size for name, method in METHODS.items()}, {})
    units = units_of(plan, RunSettings())
    for size, layers in MODELS.values():
        loading, preparing = 2 * size / assumed.read_gb_a_second, 60 * assumed.prepare_minutes
        begun = loading + preparing
        spent["loading"] += workers * loading
        spent["preparing, others waiting"] += workers * preparing
        probing = assumed.seconds(PROBING, assumed.probe_passes, size, layers)
        waiting, last, ends = WorkQueue(units), dict[int, BlockKey](), []
        free = [(begun, number) for number in range(workers)]
        while waiting:
            now, number = heapq.heappop(free)
            mine = last.pop(number, None)
            unit: Unit = waiting.take(mine, set(last.values()))
            last[number] = unit.start
            method, count = METHODS[unit.editor], len(unit.indices)
            edits = count * assumed.seconds(method.seconds, method.passes, size, layers)
            probes = count * probing
            unedited = 0.0 if unit.start == mine else probes
            spent[f"edits of {unit.editor}" if unit.editor == "kn" else "edits of the others"] += edits
            spent["probing"] += probes
            spent["probing the unedited model"] += unedited
            heapq.heappush(free, (now + edits + probes + unedited, number))
        ends = [end for end, _ in free]
        spent["waiting for the last unit"] += sum(max(ends) - end for end in ends)
        whole += max(ends)
    return Outcome(whole / 3600, {what: seconds / 3600 for what, seconds in spent.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,8,64,256", help="how many cards, comma-separated")
    parser.add_argument("--cases", type=int, default=Assumptions.cases)
    args = parser.parse_args()
    assumed = Assumptions(cases=args.cases)
    found = {workers: simulate(workers, assumed) for workers in map(int, args.workers.split(","))}
    table = Table(title="Expected", title_justify="left")
    for column in ("cards", "days", "card-hours", "$", *next(iter(found.values())).card_hours):
        table.add_column(column, justify="right")
    for workers, outcome in found.items():
        total = sum(outcome.card_hours.values())
        shares = [f"{100 * hours / total:.1f}%" for hours in outcome.card_hours.values()]
        cost = f"{total * assumed.price:,.0f}"
        table.add_row(str(workers), f"{outcome.hours / 24:.2f}", f"{total:,.0f}", cost, *shares)
    out = Console(width=140)
    out.print(assumed.table())
    out.print(table)


if __name__ == "__main__":
    main()
