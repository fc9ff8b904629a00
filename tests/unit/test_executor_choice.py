"""The executor that a run gets without --executor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.models.loading import stored_model_bytes
from knbench.benchmark.running.executors import ExecutorConfig, Machine, choose, size_of

GB = 2**30
TWO_CORES = Machine(2, 24 * GB)


@pytest.mark.parametrize(
    ("edits", "units", "weights", "machine", "kind", "workers"),
    [
        (1000, 200, GB // 2, TWO_CORES, "local", 2),
        (24, 6, GB // 2, TWO_CORES, "local", 2),
        (23, 6, GB // 2, TWO_CORES, "serial", None),  # a small run
        (1000, 200, 2 * 2**20, TWO_CORES, "serial", None),  # a toy model
        (1000, 200, None, TWO_CORES, "serial", None),  # a model that is not downloaded
        (1000, 200, GB // 2, Machine(1, 24 * GB), "serial", None),
        (1000, 1, GB // 2, TWO_CORES, "serial", None),  # one sequence
        (1000, 200, GB // 2, Machine(16, 24 * GB), "local", 9),  # memory for nine
        (1000, 200, 30 * GB, Machine(64, 64 * GB), "serial", None),
    ],
)
def test_the_choice_follows_edits_cores_and_memory(edits, units, weights, machine, kind, workers):
    found = choose(ExecutorConfig("auto"), edits, units, weights, machine)
    assert (found.kind, found.workers, found.threads) == (kind, workers, 1 if kind == "local" else None)


def test_what_the_user_states_is_kept():
    assert choose(ExecutorConfig("serial", threads=2), 1000, 200, GB, TWO_CORES) == ExecutorConfig("serial", threads=2)
    assert choose(ExecutorConfig("auto", workers=3, threads=2), 1, 1, None, TWO_CORES).workers == 3
    assert choose(ExecutorConfig("auto", threads=4), 1000, 200, GB, TWO_CORES).threads == 4
    assert choose(ExecutorConfig("auto", device="cuda"), 1000, 200, GB, TWO_CORES).kind == "serial"


def test_the_size_of_a_run_is_that_of_its_settings():
    capital = [registry.task("capital")]
    settings = RunSettings(limit=20)
    assert size_of(capital, 3, settings) == (60, 9)
    assert size_of(capital, 3, replace(settings, batch_edits=10)) == (60, 6)
    assert size_of(capital, 3, replace(settings, limit=None, sequential=50, checkpoints=None)) == (150, 3)
    assert size_of(capital, 1, RunSettings(subset="lite")) == (24, 3)


def test_the_bytes_of_models_on_this_machine_are_known():
    assert 1e6 < stored_model_bytes("toy-gpt2") < 1e7
    assert stored_model_bytes("nobody/not-here") is None
