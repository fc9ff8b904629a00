"""Many edits in one process: memory, open files and temporary files stay as they were."""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from knbench.benchmark.settings import RunSettings

from tests.workers import Push, recipe, run_alone

pytestmark = pytest.mark.slow
SETTINGS = RunSettings(split="all", batch_size=8, new_tokens=0)
EDITS = 300
MOST_MB = 8
"""Of growth. An editor that keeps twenty of its small matrices per edit goes beyond it; one of a real model would."""


def grown(settings, folder, told):
    """Run some edits, then 300; tell by how much memory and the number of open files grew meanwhile."""
    process, temporary = psutil.Process(), Path(tempfile.gettempdir())
    few = replace(settings, sequential=24, checkpoints=None) if settings.sequential else replace(settings, limit=24)
    run_alone(recipe(few, Push, cases=EDITS), folder / "few")
    files, rss, left = process.num_fds(), process.memory_info().rss, set(temporary.iterdir())
    run_alone(recipe(settings, Push, cases=EDITS), folder / "many")
    told.send((process.memory_info().rss - rss, process.num_fds() - files, set(temporary.iterdir()) - left))


def growth(settings, folder):
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=grown, args=(settings, folder, there))
    process.start()
    there.close()
    memory, files, temporary = here.recv()
    process.join()
    return memory / 2**20, files, temporary


@pytest.mark.parametrize("change", [{}, {"sequential": EDITS, "checkpoints": (EDITS,)}], ids=["single", "sequential"])
def test_three_hundred_edits_leave_nothing_behind(change, tmp_path):
    memory, files, temporary = growth(replace(SETTINGS, **change), tmp_path)
    print(f"{memory:+.1f} MB after {EDITS} edits")
    assert memory < MOST_MB
    assert files == 0
    assert not temporary
    assert {path.name for path in (tmp_path / "many").rglob("*.tmp")} == set()
