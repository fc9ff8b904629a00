"""Value vectors equal those of the reference implementation, alone and jointly."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.editors.shared import value_vectors as module
from knbench.editors.shared.value_vectors import ValueObjective, value_vectors

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_rome import slow_value_vector

REQUESTS = [
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
    EditRequest("Susan saw {}", "this", "sketches", "sketch"),
]
CONTEXTS = ("{}", "Because it was late. {}", "You and I. {}")
OBJECTIVE = ValueObjective(steps=6, learning_rate=0.1, weight_decay=0.01, clamp=3.0, kl_factor=0.5, stop_below=0.05)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_mlp_values_equal_the_reference_alone_and_jointly(kind, bos):
    lm = make_lm(kind, bos=bos)
    slow = [slow_value_vector(lm, r, 1, CONTEXTS, OBJECTIVE) for r in REQUESTS]
    joint = value_vectors(lm, REQUESTS, 1, CONTEXTS, OBJECTIVE)
    alone = [value_vectors(lm, [r], 1, CONTEXTS, OBJECTIVE)[0] for r in REQUESTS]
    for fast in (joint, alone):
        for vector, reference in zip(fast, slow, strict=True):
            for part in ("key", "bare_key", "value", "bare_value"):
                torch.testing.assert_close(getattr(vector, part), reference[part], atol=2e-4, rtol=2e-4)
            assert vector.losses == pytest.approx(reference["losses"], rel=1e-3, abs=1e-4)
    assert slow[0]["losses"][0] > slow[0]["losses"][-1]


@pytest.mark.parametrize("kind", CAUSAL)
def test_block_values_equal_the_reference(kind):
    lm = make_lm(kind)
    objective = ValueObjective(
        steps=5, learning_rate=0.1, weight_decay=0.5, clamp=0.75, kl_factor=0.0625, stop_below=0.05
    )
    for request, fast in zip(REQUESTS, value_vectors(lm, REQUESTS, 2, CONTEXTS, objective, "block"), strict=True):
        slow = slow_value_vector(lm, request, 2, CONTEXTS, objective, site="block")
        torch.testing.assert_close(fast.value, slow["value"], atol=2e-4, rtol=2e-4)
        assert fast.losses == pytest.approx(slow["losses"], rel=1e-3, abs=1e-4)


def test_each_request_stops_when_its_own_loss_is_low(lm):
    objective = ValueObjective(steps=30, learning_rate=0.2, weight_decay=0.0, clamp=9.0, kl_factor=0.0, stop_below=4.5)
    joint = value_vectors(lm, REQUESTS, 1, CONTEXTS, objective)
    lengths = [len(vector.losses) for vector in joint]
    assert len(set(lengths)) > 1
    assert min(lengths) < 30
    for request, vector in zip(REQUESTS, joint, strict=True):
        (single,) = value_vectors(lm, [request], 1, CONTEXTS, objective)
        assert len(single.losses) == len(vector.losses)
        torch.testing.assert_close(single.value, vector.value, atol=1e-3, rtol=1e-3)


def test_the_size_of_a_pass_does_not_change_the_values(lm, monkeypatch):
    one_pass = value_vectors(lm, REQUESTS, 1, CONTEXTS, OBJECTIVE)
    monkeypatch.setattr(module, "TOKENS_PER_REQUEST", 5)
    for one, other in zip(one_pass, value_vectors(lm, REQUESTS, 1, CONTEXTS, OBJECTIVE), strict=True):
        torch.testing.assert_close(one.value, other.value, atol=1e-4, rtol=1e-4)
        assert one.losses == pytest.approx(other.losses, rel=1e-4, abs=1e-5)


def test_the_first_context_must_be_empty(lm):
    with pytest.raises(ValueError, match="first context must be the empty one"):
        value_vectors(lm, REQUESTS, 1, CONTEXTS[1:], OBJECTIVE)
