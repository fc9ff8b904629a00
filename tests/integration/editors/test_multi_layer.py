"""MEMIT, EMMET and AlphaEdit equal their closed forms, computed with explicit inverses."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import EditStack
from knbench.benchmark.models.hooks import capture
from knbench.editors.alphaedit import AlphaEdit, AlphaEditConfig
from knbench.editors.emmet import Emmet, EmmetConfig
from knbench.editors.memit import Memit, MemitConfig
from knbench.editors.shared.earlier_keys import joined as joined_keys
from knbench.editors.shared.value_vectors import value_vectors

from tests.conftest import make_lm

REQUESTS = [
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
    EditRequest("Susan saw {}", "this", "sketches", "sketch"),
]
CONTEXTS = ("{}", "Because it was late. {}", "You and I. {}")
SMALL = {"contexts": CONTEXTS, "steps": 5, "learning_rate": 0.1, "corpus_tokens": 1024, "corpus_length": 32}


def keys_and_output(lm, request, layer, last):
    """Return the mean of the bare key and the mean of the other keys, and the last block's bare output.

    Each context is one forward pass.
    """
    keys, outputs = [], []
    for context in CONTEXTS:
        tokens, span = lm.subject_span(context.replace("{}", request.prompt, 1), request.subject)
        with capture({"k": (lm.mlp_out(layer), "input"), "v": (lm.block(last), "output")}) as captured:
            lm.model(input_ids=torch.tensor([tokens.ids]))
        keys.append(captured["k"][0, span[-1]])
        outputs.append(captured["v"][0, span[-1]])
    return (keys[0] + torch.stack(keys[1:]).mean(0)) / 2, outputs[0]


def stacked(lm, requests, layer, last):
    """Return the keys, (m, n), and outputs, (d, n), of all requests."""
    pairs = [keys_and_output(lm, request, layer, last) for request in requests]
    return torch.stack([k for k, _ in pairs], 1).double(), torch.stack([v for _, v in pairs], 1).double()


def change(lm, edit, layer):
    """Return the change of W of a layer, (d, m)."""
    name = lm.mlp_weight_name(layer)
    stored = (edit.weights[name].double() - lm.parameter(name).double()).detach()
    return lm.as_stored(layer, stored)  # as_stored is its own inverse


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("ridge", [0.5, 50.0])
def test_memit_with_one_layer_equals_the_closed_form(kind, ridge):
    """The change D minimises ridge * |D C^(1/2)|^2 + |D K - R|^2 (the paper's normal equations)."""
    lm = make_lm(kind)
    editor = Memit(MemitConfig(layers=(1,), ridge=ridge, **SMALL))
    for requests in (REQUESTS[:1], REQUESTS):
        edit = editor.edit(lm, requests)
        targets = value_vectors(lm, requests, 1, CONTEXTS, editor.config.objective, "block")
        keys, outputs = stacked(lm, requests, 1, 1)
        residual = torch.stack([v.value for v in targets], 1).double() - outputs
        moment = editor.moments.of(lm, 1).double()
        closed = residual @ keys.T @ torch.linalg.inv(ridge * moment + keys @ keys.T)
        found = change(lm, edit, 1)
        assert float((found - closed).norm() / closed.norm()) < 1e-4
        # The gradient of the cost vanishes there.
        gradient = ridge * closed @ moment + (closed @ keys - residual) @ keys.T
        assert float(gradient.norm()) < 1e-6 * float((residual @ keys.T).norm())


def test_each_layer_takes_its_share_of_the_residual(lm):
    """Each layer is solved with the keys and the residual after the edits of the layers before it."""
    editor = Memit(MemitConfig(layers=(0, 1, 2), ridge=0.5, **SMALL))
    before = lm.weight_hash()
    edit = editor.edit(lm, REQUESTS)
    assert lm.weight_hash() == before
    targets = value_vectors(lm, REQUESTS, 2, CONTEXTS, editor.config.objective, "block")
    z = torch.stack([v.value for v in targets], 1).double()
    changes = {layer: change(lm, edit, layer) for layer in (0, 1, 2)}
    for layer, share in ((0, 3), (1, 2), (2, 1)):
        keys, outputs = stacked(lm, REQUESTS, layer, 2)
        moment = editor.moments.of(make_lm("llama"), layer).double()  # of the unedited weights
        closed = (z - outputs) / share @ keys.T @ torch.linalg.inv(0.5 * moment + keys @ keys.T)
        assert float((changes[layer] - closed).norm() / closed.norm()) < 1e-3
        name = lm.mlp_weight_name(layer)
        lm.parameter(name).data = edit.weights[name]
    assert edit.diagnostics["missing"][0] > edit.diagnostics["missing"][2]


def test_emmet_fulfils_its_constraint_and_changes_text_least(lm):
    editor = Emmet(EmmetConfig(layers=(1,), ridge=0.0, **SMALL))
    found = change(lm, editor.edit(lm, REQUESTS), 1)
    targets = value_vectors(lm, REQUESTS, 1, CONTEXTS, editor.config.objective, "block")
    keys, outputs = stacked(lm, REQUESTS, 1, 1)
    residual = torch.stack([v.value for v in targets], 1).double() - outputs
    assert float((found @ keys - residual).norm() / residual.norm()) < 1e-4
    # Among all updates D that fulfil the constraint, this one has the smallest |D C^(1/2)|.
    moment = editor.moments.of(lm, 1).double()
    free = torch.randn_like(found)
    free -= free @ keys @ torch.linalg.pinv(keys)  # maps the keys to zero
    cost = lambda d: float((d @ moment * d).sum())  # noqa: E731
    assert cost(found) < cost(found + 0.1 * free)
    assert cost(found) < cost(found - 0.1 * free)


def test_the_lambda_of_emmet_acts_on_several_facts_alone(lm):
    def update(requests, ridge):
        return change(lm, Emmet(EmmetConfig(layers=(1,), ridge=ridge, **SMALL)).edit(lm, requests), 1)

    assert torch.equal(update(REQUESTS[:1], 1e6), update(REQUESTS[:1], 0.0))
    assert float(update(REQUESTS, 1e6).norm()) < 0.5 * float(update(REQUESTS, 0.0).norm())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_alphaedit_does_not_change_directions_that_text_uses(kind):
    lm = make_lm(kind)
    moment = AlphaEdit(AlphaEditConfig(layers=(1,), **SMALL)).moments.of(lm, 1).double()
    values, vectors = torch.linalg.eigh(moment)
    threshold = float(values[len(values) // 2])  # half of the directions count as used
    editor = AlphaEdit(AlphaEditConfig(layers=(1,), ridge=0.5, threshold=threshold, **SMALL))
    edit = editor.edit(lm, REQUESTS)
    preserved = vectors[:, values >= threshold]
    found = change(lm, edit, 1)
    assert float((found @ preserved).norm() / found.norm()) < 1e-5
    # The paper's equation, solved in the full width of the layer.
    free = torch.eye(len(moment)).double() - preserved @ preserved.T
    targets = value_vectors(lm, REQUESTS, 1, CONTEXTS, editor.config.objective, "block")
    keys, outputs = stacked(lm, REQUESTS, 1, 1)
    residual = torch.stack([v.value for v in targets], 1).double() - outputs
    closed = residual @ keys.T @ free @ torch.linalg.inv(keys @ keys.T @ free + 0.5 * torch.eye(len(moment)))
    assert float((found - closed).norm() / closed.norm()) < 1e-4


def alphaedit_in_half_of_the_space(lm, **more):
    """Return an editor whose null space is half of layer 1, and the projection on it."""
    moment = AlphaEdit(AlphaEditConfig(layers=(1,), **SMALL)).moments.of(lm, 1).double()
    values, vectors = torch.linalg.eigh(moment)
    threshold = float(values[len(values) // 2])
    preserved = vectors[:, values >= threshold]
    editor = AlphaEdit(AlphaEditConfig(layers=(1,), ridge=0.5, threshold=threshold, **more, **SMALL))
    return editor, torch.eye(len(moment)).double() - preserved @ preserved.T


def equation_14(lm, editor, requests, old, free):
    """Return the paper's update with the earlier keys K_p, solved in the full width of the layer."""
    targets = value_vectors(lm, requests, 1, CONTEXTS, editor.config.objective, "block")
    keys, outputs = stacked(lm, requests, 1, 1)
    residual = torch.stack([v.value for v in targets], 1).double() - outputs
    whole = old @ old.T @ free + keys @ keys.T @ free + 0.5 * torch.eye(len(free))
    return residual @ keys.T @ free @ torch.linalg.inv(whole)


def test_alphaedit_with_recomputed_keys_equals_equation_14(lm):
    editor, free = alphaedit_in_half_of_the_space(lm, keys="recomputed")
    requests, earlier = REQUESTS[:1], REQUESTS[1:]
    edit = editor.edit_next(lm, requests, earlier)
    old, _ = stacked(lm, earlier, 1, 1)  # of the current model
    closed = equation_14(lm, editor, requests, old, free)
    found = change(lm, edit, 1)
    assert float((found - closed).norm() / closed.norm()) < 1e-4
    alone = change(lm, editor.edit(lm, requests), 1)
    assert float((found @ old).norm()) < 0.9 * float((alone @ old).norm())  # the change acts less on earlier keys
    assert edit.state is None


def test_alphaedit_stores_the_keys_of_each_edit_and_follows_equation_14(lm):
    editor, free = alphaedit_in_half_of_the_space(lm)
    old, state, digests = [], None, []
    with EditStack(lm) as stack:
        for number, request in enumerate(REQUESTS):
            edit = editor.edit_next(lm, [request], REQUESTS[:number], state)
            if old:
                closed = equation_14(lm, editor, [request], torch.cat(old, 1), free)
                found = change(lm, edit, 1)
                assert float((found - closed).norm() / closed.norm()) < 1e-4
            stack.push(edit)
            old.append(stacked(lm, [request], 1, 1)[0])
            if state is not None:
                assert state.digest() == digests[-1]  # the previous state is unchanged
            state = edit.state
            digests.append(state.digest())
            stored = state.tensors["1"].double()
            expected = torch.cat(old, 1)
            assert float((stored - expected).norm() / expected.norm()) < 1e-5
    assert len(set(digests)) == len(digests)


def test_stored_keys_are_those_right_after_each_edit(lm):
    """Later edits of layer 0 change the keys of layer 1, and the stored ones stay."""
    editor = AlphaEdit(AlphaEditConfig(layers=(0, 1), ridge=0.5, **SMALL))
    right_after, state = [], None
    with EditStack(lm) as stack:
        for number, request in enumerate(REQUESTS):
            edit = editor.edit_next(lm, [request], REQUESTS[:number], state)
            stack.push(edit)
            right_after.append(stacked(lm, [request], 1, 1)[0])
            state = edit.state
        now, _ = stacked(lm, REQUESTS, 1, 1)
    stored, expected = state.tensors["1"].double(), torch.cat(right_after, 1)
    assert float((stored - expected).norm() / expected.norm()) < 1e-5
    assert float((now - expected).norm() / expected.norm()) > 1e-3


def test_more_stored_keys_than_dimensions_are_replaced_by_a_factor_of_their_sum():
    keys = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    joined = None
    for start in range(0, 9, 3):
        joined = joined_keys(joined, keys[:, start : start + 3])
    assert joined.shape == (6, 6)
    torch.testing.assert_close(joined @ joined.T, keys @ keys.T)


def test_alphaedit_asks_for_the_state_of_the_previous_edit(lm):
    editor, _ = alphaedit_in_half_of_the_space(lm)
    with pytest.raises(ValueError, match="the state has no keys of layer 1; pass the state of the previous edit"):
        editor.edit_next(lm, REQUESTS[:1], REQUESTS[1:])


def test_memit_ignores_earlier_edits(lm):
    editor = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL))
    one, other = (change(lm, editor.edit_next(lm, REQUESTS[:1], earlier), 1) for earlier in ((), REQUESTS[1:]))
    assert torch.equal(one, other)


def test_a_threshold_without_a_null_space_is_reported(lm):
    editor = AlphaEdit(AlphaEditConfig(layers=(1,), threshold=1e-9, **SMALL))
    with pytest.raises(ValueError, match="no direction that text leaves free; set threshold higher"):
        editor.edit(lm, REQUESTS)


def test_half_precision_is_solved_in_float64():
    lm = make_lm("llama")
    exact = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL))
    half = make_lm("llama", dtype=torch.bfloat16)
    edit = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL)).edit(half, REQUESTS)
    (weight,) = edit.weights.values()
    assert weight.dtype == torch.bfloat16
    assert bool(weight.isfinite().all())
    keys = torch.randn(48, 2)
    assert exact.moments.solve(lm, 1, keys).dtype == torch.float64
