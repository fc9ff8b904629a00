"""Values of several layers in models with a norm, or a factor, between the MLP and the residual stream."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.models.hooks import capture, edit_output
from knbench.editors.memit import Memit, MemitConfig
from knbench.editors.pmet import Pmet, PmetConfig
from knbench.editors.shared.mlp_contribution import contribution, nearest_direction, output_changes

from tests.conftest import make_lm
from tests.families import further_lm

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
SMALL = {"contexts": ("{}",), "corpus_tokens": 1024, "corpus_length": 32, "ridge": 1e-6}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(*shape, seed=0):
    drawn = torch.randn(*shape, generator=generator(seed)).double()
    return drawn / drawn.pow(2).mean(-1, keepdim=True).sqrt()


def test_a_direction_that_can_be_reached_is_found():
    gain, direction = torch.randn(16, generator=generator(1)), unit(5, 16)
    torch.testing.assert_close(nearest_direction(gain, gain * direction), direction)


@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_no_other_direction_is_nearer(scale):
    gain, wanted = torch.randn(6, generator=generator(2)), scale * torch.randn(1, 6, generator=generator(3)).double()
    found = nearest_direction(gain, wanted)
    assert float(found.pow(2).mean()) == pytest.approx(1)
    distance = float((gain * found - wanted).norm())
    near = found + 0.05 * torch.randn(20000, 6, generator=generator(4))
    others = torch.cat([unit(20000, 6, seed=5), near / near.pow(2).mean(-1, keepdim=True).sqrt()])
    assert distance <= float((gain * others - wanted).norm(dim=-1).min()) + 1e-9


def test_the_norm_maps_changed_outputs_to_the_wanted_contribution():
    lm = make_lm("gemma3")
    norm = lm.mlp_norm(1)
    with torch.no_grad():
        norm.weight.copy_(0.5 * torch.randn(len(norm.weight), generator=generator(6)))
    outputs, other = torch.randn(3, 32, generator=generator(7)), torch.randn(3, 32, generator=generator(8))
    change = contribution(lm, 1, other) - contribution(lm, 1, outputs)
    changed = outputs + output_changes(lm, 1, outputs, change)
    torch.testing.assert_close(contribution(lm, 1, changed), contribution(lm, 1, other), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(changed.norm(dim=-1), outputs.norm(dim=-1))


def block_output(lm, layer):
    tokens, span = lm.subject_span(REQUEST.prompt, REQUEST.subject)
    with torch.no_grad(), capture({"x": (lm.block(layer), "output")}) as captured:
        lm.model(input_ids=torch.tensor([tokens.ids]))
    return captured["x"][0, span[-1]].clone()


@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "olmo2", "granite", "llama"])
def test_the_contribution_is_what_the_block_adds(kind):
    lm = make_lm(kind) if kind in ("gemma3", "llama") else further_lm(kind)
    found = []
    for output in (torch.zeros(32), torch.randn(32, generator=generator(9))):
        with edit_output(lm.mlp(1), lambda old, new=output: torch.zeros_like(old) + new):
            found.append(block_output(lm, 1))
    torch.testing.assert_close(found[1] - found[0], contribution(lm, 1, output[None])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "olmo2", "granite", "llama"])
@pytest.mark.parametrize(("cls", "config"), [(Memit, MemitConfig), (Pmet, PmetConfig)])
def test_one_layer_reaches_the_optimised_residual_stream(kind, cls, config):
    """With one fact, one context and almost no ridge, the edited block gives the wanted output."""
    lm = make_lm(kind) if kind in ("gemma3", "llama") else further_lm(kind)
    before = block_output(lm, 1)
    edit = cls(config(layers=(1,), steps=10, learning_rate=0.1, **SMALL)).edit(lm, [REQUEST])
    (wanted,) = edit.diagnostics["missing"]
    with edit.applied(lm):
        moved = float((block_output(lm, 1) - before).norm())
    losses = edit.diagnostics["losses"][0]
    assert losses[-1] < losses[0]
    assert moved == pytest.approx(wanted, rel=1e-2)


def test_several_layers_leave_little_of_the_residual():
    """Without the conversion, the residual of a model with a norm grows instead."""
    lm = make_lm("gemma3")
    before = block_output(lm, 2)
    edit = Memit(MemitConfig(layers=(0, 1, 2), steps=10, learning_rate=0.1, **SMALL)).edit(lm, [REQUEST])
    missing = edit.diagnostics["missing"]
    with edit.applied(lm):
        moved = float((block_output(lm, 2) - before).norm())
    assert missing[-1] < missing[0]
    assert moved == pytest.approx(missing[0], rel=0.2)
