"""Hooks on every family, compared with an unmodified forward pass."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.models.hooks import capture, edit_output, resume_at, select_positions

from tests.conftest import CAUSAL, make_lm

IDS = torch.tensor([[5, 9, 200, 31, 77], [6, 8, 100, 11, 12]])


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_resuming_at_a_layer_gives_the_logits_of_the_full_pass(kind, layer):
    lm = make_lm(kind)
    with capture({"x": (lm.block(layer), "input")}) as captured:
        whole = lm.model(input_ids=IDS).logits
    with resume_at(lm, layer, captured["x"]):
        again = lm.model(input_ids=IDS if layer == 0 else torch.zeros_like(IDS)).logits
    torch.testing.assert_close(again, whole)
    torch.testing.assert_close(lm.model(input_ids=IDS).logits, whole)  # all hooks are removed


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_neurons_times_w_are_the_mlp_output(kind):
    lm = make_lm(kind)
    with capture({"k": (lm.mlp_out(2), "input"), "v": (lm.mlp(2), "output")}) as captured:
        lm.model(input_ids=IDS)
    module = lm.mlp_out(2)
    w = module.weight.T if lm.weight_is_transposed(2) else module.weight
    bias = 0 if module.bias is None else module.bias
    torch.testing.assert_close(captured["v"], captured["k"] @ w.T + bias, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_selected_positions_are_those_of_the_full_logits(kind):
    lm = make_lm(kind)
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 3])
    whole = lm.model(input_ids=IDS).logits
    with select_positions(lm, rows, columns):
        some = lm.model(input_ids=IDS).logits
    torch.testing.assert_close(some, whole[rows, columns], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", CAUSAL)
def test_an_edited_output_reaches_the_logits_of_every_batch_item_and_is_undone(kind):
    lm = make_lm(kind)
    whole = lm.model(input_ids=IDS).logits
    with edit_output(lm.mlp(1), lambda v: v.flip(-1)):
        changed = lm.model(input_ids=IDS).logits
    assert ((changed - whole).abs().amax((1, 2)) > 1e-3).all()
    torch.testing.assert_close(lm.model(input_ids=IDS).logits, whole)
