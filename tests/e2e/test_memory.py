"""Many edits in one process leave memory, open files and temporary files unchanged."""

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
MAX_GROWTH_MB = 16
"""Maximum growth of memory, which includes caches of libraries. The number of tensors detects a leaked tensor."""


def resources():
    """Return the memory in bytes, the number of open files and the number of live tensors."""
    gc.collect()
    process = psutil.Process()
    tensors = sum(issubclass(type(obj), torch.Tensor) for obj in gc.get_objects())
    return process.memory_info().rss, process.num_fds(), tensors


def send_growth(settings, folder, pipe):
    """Run 24 edits, then 300, and send the growth of the resources and the new temporary files."""
    temporary = Path(tempfile.gettempdir())
    few = replace(settings, sequential=24, checkpoints=None) if settings.sequential else replace(settings, limit=24)
    run_alone(spec(few, Push, cases=EDITS), folder / "few")
    before, files_before = resources(), set(temporary.iterdir())
    run_alone(spec(settings, Push, cases=EDITS), folder / "many")
    increase = [now - then for now, then in zip(resources(), before, strict=True)]
    pipe.send((increase, set(temporary.iterdir()) - files_before))


def growth(settings, folder):
    """Return the result of :func:`send_growth` in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm"])
    receiver, sender = context.Pipe()
    process = context.Process(target=send_growth, args=(settings, folder, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


@pytest.mark.parametrize("change", [{}, {"sequential": EDITS, "checkpoints": (EDITS,)}], ids=["single", "sequential"])
def test_many_edits_leak_no_resources(change, tmp_path):
    (memory, files, tensors), temporary = growth(replace(SETTINGS, **change), tmp_path)
    print(f"{memory / 2**20:+.1f} MB after {EDITS} edits")
    assert memory / 2**20 < MAX_GROWTH_MB
    assert files == 0
    assert tensors == 0
    assert not temporary
    assert not list(tmp_path.rglob("*.tmp"))
