"""Fast against slow, side by side in one process: ``make bench``.

Each line gives the median seconds of both, their ratio, and the largest relative difference of what they computed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from knbench.benchmark.models import load_model
from knbench.benchmark.probing import Prober
from knbench.benchmark.registry import task
from knbench.benchmark.types import EditRequest
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.value_vectors import value_vectors
from rich.console import Console
from rich.table import Table

from tests.references.slow_probing import slow_answer
from tests.references.slow_rome import slow_value_vector

REQUESTS = [
    EditRequest("The capital of {} is", country, new, true)
    for country, new, true in (
        ("Canada", "Rome", "Ottawa"),
        ("France", "Tokyo", "Paris"),
        ("Germany", "Madrid", "Berlin"),
        ("Egypt", "Lima", "Cairo"),
        ("Japan", "Oslo", "Tokyo"),
        ("Peru", "Cairo", "Lima"),
        ("Norway", "Paris", "Oslo"),
        ("Spain", "Berlin", "Madrid"),
    )
]


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def compare(
    fast: Callable[[], Any], slow: Callable[[], Any], differ: Callable[[Any, Any], float], rounds: int
) -> tuple[float, float, float, float]:
    """Run both in turn; return median seconds of each, the median ratio and the largest difference."""
    fast()
    times, worst = [], 0.0
    for _ in range(rounds):
        (a, x), (b, y) = timed(fast), timed(slow)
        times.append((a, b))
        worst = max(worst, differ(x, y))
    middle = statistics.median
    return middle(a for a, _ in times), middle(b for _, b in times), middle(b / a for a, b in times), worst


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm() / y.norm())


def rome(lm: Any, requests: Sequence[EditRequest], rounds: int) -> tuple[float, float, float, float]:
    editor = Rome(RomeConfig(layer=5, weight_decay=1e-3))
    contexts, objective = editor.contexts(lm), editor.config.objective

    def differ(fast: Any, slow: Any) -> float:
        return max(relative(f.value, s["value"]) for f, s in zip(fast, slow, strict=True))

    return compare(
        lambda: value_vectors(lm, requests, 5, contexts, objective),
        lambda: [slow_value_vector(lm, request, 5, contexts, objective) for request in requests],
        differ,
        rounds,
    )


def probing(lm: Any, rounds: int) -> tuple[float, float, float, float]:
    probes = [probe for case in task("capital").cases()[:6] for probe in case.probes]
    prober = Prober(lm, new_tokens=0)

    def differ(fast: Any, slow: Any) -> float:
        return max(abs(f[side]["logprob"] - s[side]["logprob"]) for f, s in zip(fast, slow, strict=True) for side in s)

    return compare(
        lambda: prober.observe(probes),
        lambda: [{s: slow_answer(lm, p.prompt, getattr(p, s)) for s in ("target", "rival")} for p in probes],
        differ,
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    lm = load_model("smollm2-135m")
    table = Table(title=f"{lm.name}, {torch.get_num_threads()} threads, {rounds} rounds", title_justify="left")
    for name in ("what", "fast s", "slow s", "ratio", "largest difference"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for name, measure in (
        ("ROME v*, 21 contexts, one request", lambda: rome(lm, REQUESTS[:1], rounds)),
        ("ROME v*, 21 contexts, eight requests together", lambda: rome(lm, REQUESTS, rounds)),
        ("probing 60 probes, log-probabilities", lambda: probing(lm, rounds)),
    ):
        a, b, ratio, worst = measure()
        table.add_row(name, f"{a:.2f}", f"{b:.2f}", f"{ratio:.1f}", f"{worst:.1e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
