"""Measures what OpenMP's wait policy costs on an idle and on a busy machine.

Usage: python -m tests.performance.waiting
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ROUNDS = 5
SETTINGS = {"active, 2 threads": ("ACTIVE", 2), "passive, 2 threads": ("PASSIVE", 2), "1 thread": ("PASSIVE", 1)}
WORK = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
from knbench.benchmark.models.untrained import untrained
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=2000, hidden_size=576, intermediate_size=1536, num_hidden_layers=8,
                     num_attention_heads=9, num_key_value_heads=3)
model = LlamaForCausalLM(config).eval().requires_grad_(False)
ids = torch.arange(96).reshape(8, 12)
weight = model.model.layers[4].mlp.down_proj.weight.requires_grad_(True)
def step():
    model(input_ids=ids).logits.logsumexp(-1).sum().backward()
    weight.grad = None
for _ in range(3):
    step()
start = time.perf_counter()
for _ in range(15):
    step()
print((time.perf_counter() - start) / 15)
"""
"""The training step of an edit: a forward and a backward pass over eight short prompts, of SmolLM2's width."""


def seconds(policy: str, threads: int) -> float:
    """Return the seconds of one step in a new process."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", WORK, str(threads)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep as many cores busy in a ``with`` block."""
    running = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        for process in running:
            process.kill()


def main() -> None:
    """Print the median of interleaved repetitions."""
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; milliseconds per step, median of {ROUNDS}")
    for neighbours in (0, 1, 2):
        found: dict[str, list[float]] = {name: [] for name in SETTINGS}
        with busy(neighbours):
            for _ in range(ROUNDS):
                for name, (policy, threads) in SETTINGS.items():
                    found[name].append(seconds(policy, threads))
        row = ", ".join(f"{name} {1000 * statistics.median(times):.0f}" for name, times in found.items())
        print(f"{neighbours} busy neighbours: {row}", flush=True)


if __name__ == "__main__":
    main()
