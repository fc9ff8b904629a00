"""MEMIT, EMMET and AlphaEdit against their closed forms, solved another way."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.benchmark.models.hooks import capture
from knbench.editors.memit import AlphaEdit, AlphaEditConfig, Emmet, EmmetConfig, Memit, MemitConfig
from knbench.editors.shared.value_vectors import value_vectors

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_rome import slow_value_vector

REQUESTS = [
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
    EditRequest("Susan saw {}", "this", "sketches", "sketch"),
]
CONTEXTS = ("{}", "Because it was late. {}", "You and I. {}")
SMALL = {"contexts": CONTEXTS, "steps": 5, "learning_rate": 0.1, "corpus_tokens": 1024, "corpus_length": 32}


def keys_and_output(lm, request, layer, last):
    """One pass per context: the mean of the bare key and the mean of the others; the last block's bare output."""
    keys, outputs = [], []
    for context in CONTEXTS:
        tokens, span = lm.subject_span(context.replace("{}", request.prompt, 1), request.subject)
        with capture({"k": (lm.mlp_out(layer), "input"), "v": (lm.block(last), "output")}) as seen:
            lm.model(input_ids=torch.tensor([tokens.ids]))
        keys.append(seen["k"][0, span[-1]])
        outputs.append(seen["v"][0, span[-1]])
    return (keys[0] + torch.stack(keys[1:]).mean(0)) / 2, outputs[0]


def stacked(lm, requests, layer, last):
    pairs = [keys_and_output(lm, request, layer, last) for request in requests]
    return torch.stack([k for k, _ in pairs], 1).double(), torch.stack([v for _, v in pairs], 1).double()


def change(lm, edit, layer):
    name = lm.mlp_weight_name(layer)
    moved = (edit.weights[name].double() - lm.parameter(name).double()).detach()
    return lm.as_stored(layer, moved)  # which is its own inverse


@pytest.mark.parametrize("kind", CAUSAL)
def test_block_values_equal_slow_ones(kind):
    lm = make_lm(kind)
    objective = MemitConfig(layers=(2,), **SMALL).objective
    for request, fast in zip(REQUESTS, value_vectors(lm, REQUESTS, 2, CONTEXTS, objective, "block"), strict=True):
        slow = slow_value_vector(lm, request, 2, CONTEXTS, objective, site="block")
        torch.testing.assert_close(fast.value, slow["value"], atol=2e-4, rtol=2e-4)
        assert fast.losses == pytest.approx(slow["losses"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("ridge", [0.5, 50.0])
def test_memit_with_one_layer_is_its_closed_form(kind, ridge):
    """(W + D) minimises ridge * |D C^(1/2)|^2 + |D K - R|^2: the normal equations, as the paper writes them."""
    lm = make_lm(kind)
    editor = Memit(MemitConfig(layers=(1,), ridge=ridge, **SMALL))
    for requests in (REQUESTS[:1], REQUESTS):
        edit = editor.edit(lm, requests)
        wanted = value_vectors(lm, requests, 1, CONTEXTS, editor.config.objective, "block")
        keys, now = stacked(lm, requests, 1, 1)
        rest = torch.stack([v.value for v in wanted], 1).double() - now
        moment = editor.moments.of(lm, 1).double()
        closed = rest @ keys.T @ torch.linalg.inv(ridge * moment + keys @ keys.T)
        found = change(lm, edit, 1)
        assert float((found - closed).norm() / closed.norm()) < 1e-4
        # and there the cost has no slope
        slope = ridge * closed @ moment + (closed @ keys - rest) @ keys.T
        assert float(slope.norm()) < 1e-6 * float((rest @ keys.T).norm())


def test_layers_share_what_is_missing(lm):
    """Each layer is solved with the keys and the rest that the layers before it have left."""
    editor = Memit(MemitConfig(layers=(0, 1, 2), ridge=0.5, **SMALL))
    before = lm.weight_hash()
    edit = editor.edit(lm, REQUESTS)
    assert lm.weight_hash() == before
    wanted = value_vectors(lm, REQUESTS, 2, CONTEXTS, editor.config.objective, "block")
    z = torch.stack([v.value for v in wanted], 1).double()
    changes = {layer: change(lm, edit, layer) for layer in (0, 1, 2)}
    for layer, share in ((0, 3), (1, 2), (2, 1)):
        keys, now = stacked(lm, REQUESTS, layer, 2)
        moment = editor.moments.of(make_lm("llama"), layer).double()  # of the unedited weights
        closed = (z - now) / share @ keys.T @ torch.linalg.inv(0.5 * moment + keys @ keys.T)
        assert float((changes[layer] - closed).norm() / closed.norm()) < 1e-3
        name = lm.mlp_weight_name(layer)
        lm.parameter(name).data = edit.weights[name]
    assert edit.diagnostics["missing"][0] > edit.diagnostics["missing"][2]


def test_emmet_meets_its_constraint_exactly(lm):
    editor = Emmet(EmmetConfig(layers=(1,), ridge=0.0, **SMALL))
    found = change(lm, editor.edit(lm, REQUESTS), 1)
    wanted = value_vectors(lm, REQUESTS, 1, CONTEXTS, editor.config.objective, "block")
    keys, now = stacked(lm, REQUESTS, 1, 1)
    rest = torch.stack([v.value for v in wanted], 1).double() - now
    assert float((found @ keys - rest).norm() / rest.norm()) < 1e-4
    # among all updates that meet it, the one that moves text least: any other has a larger |D C^(1/2)|
    moment = editor.moments.of(lm, 1).double()
    free = torch.randn_like(found)
    free -= free @ keys @ torch.linalg.pinv(keys)  # annihilates the keys
    cost = lambda d: float((d @ moment * d).sum())  # noqa: E731
    assert cost(found) < cost(found + 0.1 * free)
    assert cost(found) < cost(found - 0.1 * free)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_alphaedit_leaves_what_text_uses_exactly(kind):
    lm = make_lm(kind)
    moment = AlphaEdit(AlphaEditConfig(layers=(1,), **SMALL)).moments.of(lm, 1).double()
    values, vectors = torch.linalg.eigh(moment)
    threshold = float(values[len(values) // 2])  # half of the directions count as used
    editor = AlphaEdit(AlphaEditConfig(layers=(1,), ridge=0.5, threshold=threshold, **SMALL))
    edit = editor.edit(lm, REQUESTS)
    preserved = vectors[:, values >= threshold]
    found = change(lm, edit, 1)
    assert float((found @ preserved).norm() / found.norm()) < 1e-5
    # the paper's own equation, solved in the layer's full width
    free = torch.eye(len(moment)).double() - preserved @ preserved.T
    wanted = value_vectors(lm, REQUESTS, 1, CONTEXTS, editor.config.objective, "block")
    keys, now = stacked(lm, REQUESTS, 1, 1)
    rest = torch.stack([v.value for v in wanted], 1).double() - now
    closed = rest @ keys.T @ free @ torch.linalg.inv(keys @ keys.T @ free + 0.5 * torch.eye(len(moment)))
    assert float((found - closed).norm() / closed.norm()) < 1e-4


def test_alphaedit_shields_earlier_edits_by_the_papers_equation(lm):
    moment = AlphaEdit(AlphaEditConfig(layers=(1,), **SMALL)).moments.of(lm, 1).double()
    values, vectors = torch.linalg.eigh(moment)
    threshold = float(values[len(values) // 2])
    editor = AlphaEdit(AlphaEditConfig(layers=(1,), ridge=0.5, threshold=threshold, **SMALL))
    now, earlier = REQUESTS[:1], REQUESTS[1:]
    found = change(lm, editor.edit_next(lm, now, earlier), 1)
    preserved = vectors[:, values >= threshold]
    free = torch.eye(len(moment)).double() - preserved @ preserved.T
    wanted = value_vectors(lm, now, 1, CONTEXTS, editor.config.objective, "block")
    keys, output = stacked(lm, now, 1, 1)
    old, _ = stacked(lm, earlier, 1, 1)
    rest = torch.stack([v.value for v in wanted], 1).double() - output
    whole = old @ old.T @ free + keys @ keys.T @ free + 0.5 * torch.eye(len(moment))
    closed = rest @ keys.T @ free @ torch.linalg.inv(whole)
    assert float((found - closed).norm() / closed.norm()) < 1e-4
    alone = change(lm, editor.edit(lm, now), 1)
    assert float((found @ old).norm()) < 0.9 * float((alone @ old).norm())  # earlier keys are disturbed less


def test_memit_takes_no_note_of_earlier_edits(lm):
    editor = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL))
    one, other = (change(lm, editor.edit_next(lm, REQUESTS[:1], earlier), 1) for earlier in ((), REQUESTS[1:]))
    assert torch.equal(one, other)


def test_a_threshold_that_leaves_no_direction_is_told(lm):
    editor = AlphaEdit(AlphaEditConfig(layers=(1,), threshold=1e-9, **SMALL))
    with pytest.raises(ValueError, match="no direction that text leaves free; set threshold higher"):
        editor.edit(lm, REQUESTS)


def test_half_precision_is_solved_in_double():
    lm = make_lm("llama")
    exact = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL))
    half = make_lm("llama", dtype=torch.bfloat16)
    edit = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL)).edit(half, REQUESTS)
    (weight,) = edit.weights.values()
    assert weight.dtype == torch.bfloat16
    assert bool(weight.isfinite().all())
    keys = torch.randn(48, 2)
    assert exact.moments.solve(lm, 1, keys).dtype == torch.float64


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"layers": "2|1"}, "in rising order, such as 4|5|6"),
        ({"layers": "one"}, "memit.layers=one: expected a whole number"),
        ({"ridge": "-1"}, "ridge must not be negative"),
        ({"corpus_tokens": "5"}, "corpus_tokens"),
    ],
)
def test_wrong_hyper_parameters_are_named(lm, args, complaint):
    with pytest.raises(KnbenchError, match=complaint.replace("|", r"\|")):
        build_editor(Memit, lm, args)
