"""Causal tracing: equality with one full pass per state, identities, and token roles computed by hand."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.analyses.tracing import (
    KINDS,
    TraceResult,
    TraceSettings,
    layer_windows,
    mean_effects_by_role,
    summarise_traces,
    token_roles,
    trace,
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
            # The answers of a random model are improbable; the error is compared with the largest effect.
            assert float((fast[name] - slow[name]).abs().max()) < 5e-3 * float(slow[name].abs().max()), name


def test_restoring_the_only_corrupted_position_gives_the_clean_answer(lm):
    found = trace(lm, EditRequest("The capital of Italy is {}", "Rome", "x", "and"), 0.5, SETTINGS)
    assert found.roles[-1] == "subject last"
    assert abs(found.clean - found.corrupted) > 0.01 * found.clean
    restored = found.effects["state"][-1] + found.corrupted
    assert restored.tolist() == pytest.approx([found.clean] * lm.n_layers, rel=1e-4)


def test_effects_before_the_subject_are_zero(lm):
    found = trace(lm, REQUESTS[0], 0.5, SETTINGS)
    before = found.roles.index("subject first")
    assert before > 0
    assert not any(found.effects[kind][:before].any() for kind in KINDS)


def test_noise_depends_on_the_prompt_and_the_seed(lm):
    torch.manual_seed(1)
    one = trace(lm, REQUESTS[0], 0.5, SETTINGS)
    torch.manual_seed(2)
    two = trace(lm, REQUESTS[0], 0.5, SETTINGS)
    other = trace(lm, REQUESTS[0], 0.5, TraceSettings(samples=3, window=2, seed=1))
    assert torch.equal(one.effects["mlp"], two.effects["mlp"])
    assert one.corrupted != other.corrupted
    assert one.clean == pytest.approx(other.clean)


def test_token_roles_by_hand():
    assert token_roles(range(2, 5), 8) == (
        None, None, "subject first", "subject middle", "subject last", "next", "further", "last",
    )  # fmt: skip
    assert token_roles(range(0, 1), 2) == ("subject last", "last")
    assert token_roles(range(1, 2), 2) == (None, "subject last")


def test_layer_windows_by_hand():
    assert layer_windows(5, 3) == [range(2), range(3), range(1, 4), range(2, 5), range(3, 5)]
    assert layer_windows(3, 1) == [range(1), range(1, 2), range(2, 3)]


def test_effects_are_averaged_within_a_prompt_before_prompts():
    effects = {kind: torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]) for kind in KINDS}
    one = TraceResult(0.9, 0.1, effects, (None, "further", "further"))
    common = {"task": "t", "kind": "fact", "failure": None}
    rows = [
        {**common, "clean": 0.9, "corrupted": 0.1, "effects": mean_effects_by_role(one)},
        {**common, "clean": 0.7, "corrupted": 0.1, "effects": {kind: {"further": [4.0, 1.0]} for kind in KINDS}},
        {"task": "t", "kind": "fact", "failure": "ValueError: x"},
    ]
    (found,) = summarise_traces(rows)
    assert found["effects"]["mlp"]["further"] == {"prompts": 2, "effect": [3.0, 2.0]}
    assert found["peaks"]["state"] == {"role": "further", "layer": 0, "effect": 3.0}
    assert (found["prompts"], found["failed"], found["clean"]) == (2, 1, pytest.approx(0.8))


def test_a_masked_model_is_refused():
    with pytest.raises(ValueError, match="needs a causal model"):
        trace(make_lm("bert"), REQUESTS[0], 0.5, SETTINGS)
