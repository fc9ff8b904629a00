"""The distributions of a long sequence are kept in a file, bit for bit, and memory does not grow with its length."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing import baseline
from knbench.benchmark.probing.baseline import Baselines
from knbench.benchmark.probing.distributions import StoredDistributions
from knbench.benchmark.probing.prober import make_prober

from tests.files import run_folders as run
from tests.workers import Push, measured, towns

SETTINGS = RunSettings(batch_size=32, new_tokens=0, split="all")


def test_a_stored_distribution_is_read_bit_for_bit():
    stored, other = StoredDistributions(), StoredDistributions()
    vectors = {((1, 2, i), i): torch.randn(50).log_softmax(-1) for i in range(3)}
    stored.update(vectors)
    other.absorb({((9,), 0): torch.zeros(7)})
    other.absorb(stored)
    assert set(other) == {*vectors, ((9,), 0)}
    assert all(torch.equal(other[key], vector) and torch.equal(stored[key], vector) for key, vector in vectors.items())
    del other[((9,), 0)]
    assert len(other) == 3


def test_the_number_of_distributions_in_memory_does_not_grow_with_the_cases(monkeypatch):
    monkeypatch.setattr(baseline, "RESIDENT_BLOCKS", 1)
    lm = untrained("llama")
    prober = make_prober(lm, batch_size=32, new_tokens=0)

    def in_memory():
        """The number of vectors over the vocabulary in this process, also those that other tests left."""
        gc.collect()
        return sum(type(o) is torch.Tensor and o.shape == (lm.model.config.vocab_size,) for o in gc.get_objects())

    def vectors(cases):
        """The number of vectors over the vocabulary that a baseline of some cases keeps in memory."""
        before = in_memory()
        baselines = Baselines(prober, SETTINGS, 8)
        found = baselines.of("towns", dict(enumerate(towns(cases).cases)))
        assert len(found.reference.distributions) == cases
        assert next(iter(found.reference.distributions.values())).shape == (lm.model.config.vocab_size,)
        return in_memory() - before

    assert [vectors(cases) for cases in (8, 16, 32)] == [8, 0, 0]


def test_a_run_that_stores_its_distributions_has_the_same_records(tmp_path, monkeypatch):
    settings = replace(SETTINGS, sequential=8, checkpoints=(4,))
    (one,) = run(untrained("llama"), [Push], [towns(8)], tmp_path / "memory", settings)
    monkeypatch.setattr(baseline, "RESIDENT_BLOCKS", 0)
    (two,) = run(untrained("llama"), [Push], [towns(8)], tmp_path / "file", settings)
    assert measured(one) == measured(two)
    files = [measured(folder, "checkpoints.jsonl", "checkpoint") for folder in (one, two)]
    assert files[0] == files[1]
