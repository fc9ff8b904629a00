"""Many edits in one process: memory, open files and temporary files stay as they were."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from knbench.benchmark.core.settings import RunSettings

from tests.workers import Push, run_alone, spec

pytestmark = [pytest.mark.slow, pytest.mark.alone]
SETTINGS = RunSettings(split="all", batch_size=8, new_tokens=0)
EDITS = 300
MOST_MB = 16
"""Of growth, in which libraries' caches take part; a single tensor that is kept shows in the number of tensors."""


def held():
    """Memory in bytes, open files, tensors that something holds."""
    gc.collect()
    process = psutil.Process()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    return process.memory_info().rss, process.num_fds(), tensors


def grown(settings, folder, told):
    """Run some edits, then 300; tell what the process holds beyond what it held, and what it left on disk."""
    temporary = Path(tempfile.gettempdir())
    few = replace(settings, sequential=24, checkpoints=None) if settings.sequential else replace(settings, limit=24)
    run_alone(spec(few, Push, cases=EDITS), folder / "few")
    before, left = held(), set(temporary.iterdir())
    run_alone(spec(settings, Push, cases=EDITS), folder / "many")
    told.send(([now - then for now, then in zip(held(), before, strict=True)], set(temporary.iterdir()) - left))


def growth(settings, folder):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm"])
    here, there = context.Pipe()
    process = context.Process(target=grown, args=(settings, folder, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


@pytest.mark.parametrize("change", [{}, {"sequential": EDITS, "checkpoints": (EDITS,)}], ids=["single", "sequential"])
def test_three_hundred_edits_leave_nothing_behind(change, tmp_path):
    (memory, files, tensors), temporary = growth(replace(SETTINGS, **change), tmp_path)
    print(f"{memory / 2**20:+.1f} MB after {EDITS} edits")
    assert memory / 2**20 < MOST_MB
    assert files == 0
    assert tensors == 0
    assert not temporary
    assert not list(tmp_path.rglob("*.tmp"))
