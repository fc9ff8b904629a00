"""Causal tracing against one whole pass per state, identities, and alignment by hand."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.analyses.tracing import (
    KINDS,
    Trace,
    TraceSettings,
    by_role,
    roles_of,
    summarise_traces,
    trace,
    windows,
)
from knbench.benchmark.core.schema import EditRequest

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_tracing import slow_effects

SETTINGS = TraceSettings(samples=3, window=2)
REQUESTS = [
    EditRequest("The capital of {} is the city of", "Danielle Darrieux", "Rome", "Ottawa"),
    EditRequest("{} is", "Canada", "Rome", "Ottawa"),
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_effects_equal_one_pass_per_state(kind, bos):
    lm = make_lm(kind, bos=bos)
    for request in REQUESTS:
        fast, slow = trace(lm, request, 0.5, SETTINGS).effects, slow_effects(lm, request, 0.5, SETTINGS)
        for name in KINDS:
            assert torch.allclose(fast[name], slow[name], atol=1e-5), name
            # A random model's answers are improbable: what counts is the size beside the largest effect.
            assert float((fast[name] - slow[name]).abs().max()) < 5e-3 * float(slow[name].abs().max()), name


def test_putting_back_the_only_blurred_position_gives_the_clean_answer(lm):
    found = trace(lm, EditRequest("The capital of Italy is {}", "Rome", "x", "and"), 0.5, SETTINGS)
    assert found.roles[-1] == "subject last"
    assert abs(found.clean - found.corrupted) > 0.01 * found.clean
    restored = found.effects["state"][-1] + found.corrupted
    assert restored.tolist() == pytest.approx([found.clean] * lm.n_layers, rel=1e-4)


def test_nothing_can_be_put_back_before_the_subject(lm):
    found = trace(lm, REQUESTS[0], 0.5, SETTINGS)
    before = found.roles.index("subject first")
    assert before > 0
    assert not any(found.effects[kind][:before].any() for kind in KINDS)


def test_noise_is_seeded_by_the_prompt_and_the_seed(lm):
    torch.manual_seed(1)
    one = trace(lm, REQUESTS[0], 0.5, SETTINGS)
    torch.manual_seed(2)
    two = trace(lm, REQUESTS[0], 0.5, SETTINGS)
    other = trace(lm, REQUESTS[0], 0.5, TraceSettings(samples=3, window=2, seed=1))
    assert torch.equal(one.effects["mlp"], two.effects["mlp"])
    assert one.corrupted != other.corrupted
    assert one.clean == pytest.approx(other.clean)


def test_positions_are_aligned_by_role():
    assert roles_of(range(2, 5), 8) == (
        None, None, "subject first", "subject middle", "subject last", "next", "further", "last",
    )  # fmt: skip
    assert roles_of(range(0, 1), 2) == ("subject last", "last")
    assert roles_of(range(1, 2), 2) == (None, "subject last")


def test_windows_by_hand():
    assert windows(5, 3) == [range(2), range(3), range(1, 4), range(2, 5), range(3, 5)]
    assert windows(3, 1) == [range(1), range(1, 2), range(2, 3)]


def test_effects_are_averaged_within_a_prompt_first():
    effects = {kind: torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]) for kind in KINDS}
    one = Trace(0.9, 0.1, effects, (None, "further", "further"))
    rows = [
        {"task": "t", "kind": "fact", "failure": None, "clean": 0.9, "corrupted": 0.1, "effects": by_role(one)},
        {
            "task": "t", "kind": "fact", "failure": None, "clean": 0.7, "corrupted": 0.1,
            "effects": {kind: {"further": [4.0, 1.0]} for kind in KINDS},
        },
        {"task": "t", "kind": "fact", "failure": "ValueError: x"},
    ]  # fmt: skip
    (found,) = summarise_traces(rows)
    assert found["effects"]["mlp"]["further"] == {"prompts": 2, "effect": [3.0, 2.0]}
    assert found["peaks"]["state"] == {"role": "further", "layer": 0, "effect": 3.0}
    assert (found["prompts"], found["failed"], found["clean"]) == (2, 1, pytest.approx(0.8))


def test_a_masked_model_is_refused():
    with pytest.raises(ValueError, match="needs a causal model"):
        trace(make_lm("bert"), REQUESTS[0], 0.5, SETTINGS)
