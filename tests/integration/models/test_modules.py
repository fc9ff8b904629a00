"""Modules by role in every family, and the unedited values of parameters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.editing import Edit, EditStack
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.models.language_model import LanguageModel

from tests.conftest import CAUSAL, make_lm

IDS = torch.tensor([[5, 9, 200, 31, 77], [6, 8, 100, 11, 12]])
GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
ROLES = ("gate", "up", "down", "attention_out")


@pytest.mark.parametrize("kind", GATED)
def test_the_neurons_are_the_activated_gate_times_up(kind):
    lm = make_lm(kind)
    sides = {role: (lm.projection(role, 2), "output") for role in ("gate", "up")}
    with capture({**sides, "k": (lm.projection("down", 2), "input")}) as captured:
        lm.model(input_ids=IDS)
    act = lm.mlp(2).act_fn
    assert lm.gated
    torch.testing.assert_close(captured["k"], act(captured["gate"]) * captured["up"])


@pytest.mark.parametrize("kind", [kind for kind in (*CAUSAL, "bert") if kind not in GATED])
def test_an_mlp_without_gate_has_up_and_down(kind):
    lm = make_lm(kind)
    assert not lm.gated
    assert lm.projection("up", 1) is lm.mlp_in(1)
    assert lm.projection("down", 1) is lm.mlp_out(1)
    with pytest.raises(
        KnbenchError, match=f"model 'tiny-{kind}' has no module with the role 'gate': its MLPs have no gate"
    ):
        lm.projection("gate", 1)


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_attention_out_maps_the_heads_to_the_output_of_the_attention(kind):
    lm = make_lm(kind)
    module = lm.projection("attention_out", 1)
    with capture({"v": (lm.attention(1), "output"), "out": (module, "output")}) as captured:
        lm.model(input_ids=IDS)
    if lm.causal:
        torch.testing.assert_close(captured["v"], captured["out"])
    else:  # BERT adds the residual and normalises inside its attention module
        assert captured["v"].shape == captured["out"].shape
    new = torch.zeros_like(module.weight)
    name = lm.weight_name("attention_out", 1)
    assert lm.parameter(name) is module.weight
    with Edit(weights={name: new}).applied(lm), capture({"out": (module, "output")}) as captured:
        lm.model(input_ids=IDS)
        bias = 0 if module.bias is None else module.bias
        torch.testing.assert_close(captured["out"], torch.zeros_like(captured["out"]) + bias)


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
@pytest.mark.parametrize("role", ROLES)
def test_as_stored_gives_the_layout_of_every_projection(kind, role):
    lm = make_lm(kind)
    if role == "gate" and not lm.gated:
        pytest.skip("no gate")
    module = lm.projection(role, 0)
    with capture({"x": (module, "input"), "y": (module, "output")}) as captured:
        lm.model(input_ids=IDS)
    matrix = lm.as_stored(0, module.weight, role)  # (out, in)
    bias = 0 if module.bias is None else module.bias
    torch.testing.assert_close(captured["x"] @ matrix.T + bias, captured["y"], atol=1e-5, rtol=1e-4)


def test_a_family_without_a_path_says_which(lm):
    family = dataclasses.replace(lm.family, attention_out="")
    other = LanguageModel(lm.model, lm.tokenizer, family, name="other")
    with pytest.raises(KnbenchError, match="role 'attention_out': its family does not name attention_out"):
        other.projection("attention_out", 0)


# --- unedited values ---------------------------------------------------------------------------------------


@pytest.fixture
def name(lm):
    return lm.mlp_weight_name(1)


def filled(lm, name, value):
    return Edit(weights={name: torch.full_like(lm.parameter(name), value)})


def test_the_unedited_value_is_that_below_all_edits(lm, name):
    original = lm.parameter(name).detach().clone()
    assert torch.equal(lm.unedited(name), original)
    with EditStack(lm) as stack:
        assert torch.equal(lm.unedited(name), original)
        for value in (1.0, 2.0):
            stack.push(filled(lm, name, value))
            assert torch.equal(lm.unedited(name), original)
            assert (lm.parameter(name) == value).all()
        with filled(lm, name, 3.0).applied(lm):  # an editor that applies a part of its edit
            assert torch.equal(lm.unedited(name), original)
        assert torch.equal(lm.unedited(name), original)
        stack.pop()
        assert torch.equal(lm.unedited(name), original)
    assert lm.unedited(name).data_ptr() == lm.parameter(name).data_ptr()


def test_a_parameter_that_only_an_inner_edit_changes(lm, name):
    other = lm.mlp_weight_name(2)
    original = lm.parameter(other).detach().clone()
    with filled(lm, name, 1.0).applied(lm), filled(lm, other, 2.0).applied(lm):
        assert torch.equal(lm.unedited(other), original)


def test_tied_parameters_share_their_unedited_value(lm):
    original = lm.model.get_input_embeddings().weight.detach().clone()
    with filled(lm, "model.embed_tokens.weight", 0.5).applied(lm):
        assert torch.equal(lm.unedited("lm_head.weight"), original)


def test_nothing_is_left_after_an_exception(lm, name):
    with pytest.raises(KeyboardInterrupt), filled(lm, name, 1.0).applied(lm):
        raise KeyboardInterrupt
    assert lm.unedited(name).data_ptr() == lm.parameter(name).data_ptr()
    with pytest.raises(KnbenchError, match="has no parameter 'nothing'"):
        lm.unedited("nothing")
