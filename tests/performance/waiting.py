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

ROUNDS = 3
SETTINGS = {"active, 2 threads": ("ACTIVE", 2), "passive, 2 threads": ("PASSIVE", 2), "1 thread": ("PASSIVE", 1)}
WORK = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=2000, hidden_size=576, intermediate_size=1536, num_hidden_layers=4,
                     num_attention_heads=9, num_key_value_heads=3)
model = LlamaForCausalLM(config).eval().requires_grad_(False)
ids = torch.arange(96).reshape(8, 12)
weight = model.model.layers[2].mlp.down_proj.weight.requires_grad_(True)
def step():
    model(input_ids=ids).logits.logsumexp(-1).sum().backward()
    weight.grad = None
step()
start, cpu = time.perf_counter(), time.process_time()
for _ in range(5):
    step()
print((time.perf_counter() - start) / 5, (time.process_time() - cpu) / 5)
"""
"""The training step of an edit: a forward and a backward pass over eight short prompts, of SmolLM2's width."""


def seconds(policy: str, threads: int) -> tuple[float, float]:
    """Return the seconds of one step in a new process, and its CPU seconds over all threads."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", WORK, str(threads)]
    wall, cpu = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return float(wall), float(cpu)


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
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; medians per step of up to {ROUNDS} runs")
    for neighbours in (0, 1):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
        with busy(neighbours):
            for _ in range(ROUNDS):
                for name, (policy, threads) in SETTINGS.items():
                    found[name].append(seconds(policy, threads))
                    wall, cpu = (1000 * statistics.median(column) for column in zip(*found[name], strict=True))
                    print(f"{neighbours} busy neighbours, {name}: {wall:.0f} ms, of CPU {cpu:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
