"""Equal probabilities: only the token that the model chooses is its first choice."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.probing.base import token_ranks
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.scoring.criteria import MEASURES

from tests.conftest import make_lm


def test_ranks_by_hand():
    logprobs = torch.tensor([0.1, 0.4, 0.4, 0.1, 0.0]).log()
    assert token_ranks(logprobs, [0, 1, 2, 3, 4], 1) == [2, 0, 1, 2, 4]
    assert token_ranks(logprobs, [2, 1], 2) == [0, 1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_model_without_any_preference_is_not_exact(kind):
    """A collapsed edit whose logits are all equal once had every answer as its first choice."""
    lm = make_lm(kind)
    lm.head.register_forward_hook(lambda _m, _i, output: torch.zeros_like(output))
    probes = [
        Probe("reliability", "completion", "The capital of Canada is", word, "people", "new")
        for word in ("Rome", "Ottawa", "Italy", "Paris")
    ]
    observations = make_prober(lm).observe(probes)
    for probe, seen in zip(probes, observations, strict=True):
        assert MEASURES["exact"].of(probe, seen, seen) == 0
        assert MEASURES["token_accuracy"].of(probe, seen, seen) == 0
        assert set(seen.target.ranks) == {1}
