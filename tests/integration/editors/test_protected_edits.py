"""MEMIT-seq, BLUE and ENCORE equal their closed forms, and sequences of edits protect earlier ones."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import EditStack, build_editor, editor_class
from knbench.benchmark.models.untrained import untrained
from knbench.editors.alphaedit import AlphaEdit, AlphaEditConfig
from knbench.editors.blue import AlphaEditBlue, Blue
from knbench.editors.encore import Encore, EncoreConfig
from knbench.editors.memit import Memit, MemitConfig
from knbench.editors.memit_seq import MemitSeq
from knbench.editors.shared.earlier_keys import joined, protected
from knbench.editors.shared.multi_layer import ridge_update
from knbench.editors.shared.value_vectors import value_vectors

from tests.integration.editors.test_multi_layer import CONTEXTS, REQUESTS, SMALL, change, stacked

RIDGE = 0.5
KINDS = ["gpt2", "llama"]
WIDTH, OUTPUTS = 12, 5
NOTHING = {"norm_weight": 0.0, "stop_after": None}


def config(*layers, **more):
    return MemitConfig(layers=layers, ridge=RIDGE, **{**SMALL, **more})


def encore(*layers, **more):
    return Encore(EncoreConfig(layers=layers, ridge=RIDGE, **{**SMALL, **more}))


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def residual_of(lm, editor, requests, layer):
    """Return the whole residual at a layer's block, (d, n), and the keys, (m, n)."""
    targets = value_vectors(lm, requests, layer, CONTEXTS, editor.config.objective, "block")
    keys, outputs = stacked(lm, requests, layer, layer)
    return torch.stack([v.value for v in targets], 1).double() - outputs, keys


# --- the update, from given keys and residuals -----------------------------------------------------------------------


def given(seed, columns):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(WIDTH, columns, generator=generator, dtype=torch.float64)


def moment():
    keys = given(9, 4 * WIDTH)
    return keys @ keys.T / keys.shape[1]


def update(residual, keys, earlier, base):
    """Return the update with the small systems, for A = B without earlier keys."""
    weighted = base @ keys
    if earlier is not None:
        weighted = protected(weighted, earlier, base @ earlier, RIDGE)
    return ridge_update(residual, keys, weighted, RIDGE)


@pytest.mark.parametrize("earlier", [1, 7, WIDTH, 40])
def test_the_small_form_equals_the_direct_form(earlier):
    keys, old, residual = given(0, 3), given(1, earlier), given(2, 3)[:OUTPUTS]
    direct = residual @ keys.T @ torch.linalg.inv(RIDGE * moment() + old @ old.T + keys @ keys.T)
    assert relative(update(residual, keys, old, torch.linalg.inv(moment())), direct) < 1e-10


@pytest.mark.parametrize("earlier", [1, 7, 40])
def test_the_small_form_holds_for_a_projection(earlier):
    """AlphaEdit: the direct form is the paper's equation 14."""
    values, vectors = torch.linalg.eigh(moment())
    free = vectors[:, : WIDTH // 2] @ vectors[:, : WIDTH // 2].T
    keys, old, residual = given(0, 3), given(1, earlier), given(2, 3)[:OUTPUTS]
    whole = old @ old.T @ free + keys @ keys.T @ free + RIDGE * torch.eye(WIDTH, dtype=torch.float64)
    direct = residual @ keys.T @ free @ torch.linalg.inv(whole)
    assert relative(update(residual, keys, old, free), direct) < 1e-9
    assert len(values) == WIDTH


def test_a_sequence_equals_one_batch():
    """Recursive least squares: fixed keys and targets, and the residual of the current weight."""
    start, base = given(3, WIDTH)[:OUTPUTS], torch.linalg.inv(moment())
    keys, targets = given(4, 30), given(5, 30)[:OUTPUTS]
    weight, old = start, None
    for first in range(0, 30, 3):
        new = keys[:, first : first + 3]
        weight = weight + update(targets[:, first : first + 3] - weight @ new, new, old, base)
        old = joined(old, new)  # from 12 columns on, a factor of the sum
    batch = start + (targets - start @ keys) @ keys.T @ torch.linalg.inv(RIDGE * moment() + keys @ keys.T)
    assert relative(weight - start, batch - start) < 1e-8


# --- MEMIT-seq -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_edit_of_memit_seq_is_that_of_memit(kind):
    lm = untrained(kind, 0)
    expected = Memit(config(0, 1)).edit(lm, REQUESTS)
    found = MemitSeq(config(0, 1)).edit(lm, REQUESTS)
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())


@pytest.mark.parametrize("kind", KINDS)
def test_memit_seq_changes_the_outputs_of_earlier_keys_less_than_memit(kind):
    lm = untrained(kind, 0)
    editor = MemitSeq(config(0, 1))
    first = editor.edit(lm, REQUESTS[:1])
    with first.applied(lm):
        second = editor.edit_next(lm, REQUESTS[1:], REQUESTS[:1], first.state)
        plain = Memit(config(0, 1)).edit(lm, REQUESTS[1:])
        for layer in (0, 1):
            key = first.state.tensors[str(layer)].double()
            assert float((change(lm, second, layer) @ key).norm()) < 0.5 * float(
                (change(lm, plain, layer) @ key).norm()
            )
        # The closed form in the first layer, whose keys no update changes.
        targets = value_vectors(lm, REQUESTS[1:], 1, CONTEXTS, editor.config.objective, "block")
        keys, outputs = stacked(lm, REQUESTS[1:], 0, 1)
        old, _ = stacked(lm, REQUESTS[:1], 0, 1)
        residual = (torch.stack([v.value for v in targets], 1).double() - outputs) / 2
        C = editor.moments.of(lm, 0).double()
        closed = residual @ keys.T @ torch.linalg.inv(RIDGE * C + old @ old.T + keys @ keys.T)
        assert relative(change(lm, second, 0), closed) < 1e-4


@contextmanager
def counted_passes(lm):
    """Count the passes of the first block."""
    passes = []
    hook = lm.block(0).register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        hook.remove()


@pytest.mark.parametrize("cls", [MemitSeq, Blue, Encore, AlphaEdit, AlphaEditBlue])
def test_the_passes_of_an_edit_do_not_grow_with_the_number_of_edits(cls, lm):
    values = {"layers": "0|1", "ridge": "0.5", "steps": "3", "contexts": "|".join(CONTEXTS), "corpus_tokens": "1024"}
    editor, _ = build_editor(cls, lm, {**values, "corpus_length": "32"})
    counts = []
    with EditStack(lm) as stack:
        for number in range(4):
            with counted_passes(lm) as passes:
                edit = editor.edit_next(lm, REQUESTS[:1], REQUESTS[:1] * number, stack.state)
            counts.append(len(passes))
            stack.push(edit)
            assert [tuple(t.shape) for t in edit.state.tensors.values()] == [(48, number + 1)] * 2
    assert len(set(counts[1:])) == 1  # the first edit also computes the second moments
    assert counts[1] <= counts[0]


def test_stored_keys_never_exceed_the_width_of_a_layer():
    columns = None
    for seed in range(20):
        columns = joined(columns, given(seed, 2))
    assert columns.shape == (WIDTH, WIDTH)
    keys = torch.cat([given(seed, 2) for seed in range(20)], 1)
    torch.testing.assert_close(columns @ columns.T, keys @ keys.T)


@pytest.mark.parametrize("cls", [MemitSeq, Blue])
def test_the_state_of_the_previous_edit_is_required(cls, lm):
    with pytest.raises(ValueError, match="the state has no keys of layer 1; pass the state of the previous edit"):
        cls(config(1)).edit_next(lm, REQUESTS[:1], REQUESTS[1:])


# --- BLUE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_blue_with_one_layer_is_the_method_that_it_extends(kind):
    lm = untrained(kind, 0)
    (found,), (expected,) = (cls(config(1)).edit(lm, REQUESTS).weights.values() for cls in (Blue, Memit))
    assert torch.equal(found, expected)
    alpha = AlphaEditConfig(layers=(1,), ridge=RIDGE, **SMALL)
    (found,), (expected,) = (cls(alpha).edit(lm, REQUESTS).weights.values() for cls in (AlphaEditBlue, AlphaEdit))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_blue_writes_the_whole_residual_of_each_layer(kind):
    """The value of the second layer is optimised on the model with the first one edited."""
    lm = untrained(kind, 0)
    editor = Blue(config(0, 2))
    edit = editor.edit(lm, REQUESTS)
    moments = {layer: editor.moments.of(lm, layer).double() for layer in (0, 2)}
    changes = {layer: change(lm, edit, layer) for layer in (0, 2)}
    for layer in (0, 2):
        residual, keys = residual_of(lm, editor, REQUESTS, layer)
        closed = residual @ keys.T @ torch.linalg.inv(RIDGE * moments[layer] + keys @ keys.T)
        assert relative(changes[layer], closed) < 1e-3
        name = lm.mlp_weight_name(layer)
        lm.parameter(name).data = edit.weights[name]
    assert len(edit.diagnostics["losses"]) == 2 * len(REQUESTS)


def test_the_generic_layers_of_blue_are_the_boundary_of_those_of_the_method(lm):
    for name, base in (("blue", "memit"), ("alphaedit-blue", "alphaedit")):
        layers = editor_class(base).generic(lm)["layers"]
        assert editor_class(name).generic(lm)["layers"] == tuple(sorted({layers[0], layers[-1]}))


# --- ENCORE ----------------------------------------------------------------------------------------------------------


def test_encore_without_its_additions_is_memit_seq(lm):
    """With one layer, the keys before and after the update are the same."""
    editor, expected = encore(1, **NOTHING), MemitSeq(config(1))
    first, other = editor.edit(lm, REQUESTS[:1]), expected.edit(lm, REQUESTS[:1])
    assert relative(change(lm, first, 1), change(lm, other, 1)) < 1e-6
    with other.applied(lm):
        found = editor.edit_next(lm, REQUESTS[1:], REQUESTS[:1], first.state)
        second = expected.edit_next(lm, REQUESTS[1:], REQUESTS[:1], other.state)
        assert relative(change(lm, found, 1), change(lm, second, 1)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_encore_equals_its_closed_form(kind):
    lm = untrained(kind, 0)
    editor = encore(1, norm_weight=0.3, stop_after=None)
    first = editor.edit(lm, REQUESTS[:1])
    with first.applied(lm):
        found = change(lm, editor.edit_next(lm, REQUESTS[1:], REQUESTS[:1], first.state), 1)
        residual, keys = residual_of(lm, editor, REQUESTS[1:], 1)
        old = first.state.tensors["1"].double()
        system = RIDGE * editor.moments.of(lm, 1).double() + 0.3 * torch.eye(len(old)) + old @ old.T + keys @ keys.T
        assert relative(found, residual @ keys.T @ torch.linalg.inv(system)) < 1e-4


def test_the_norm_of_the_update_falls_with_its_weight(lm):
    norms = [
        float(change(lm, encore(1, norm_weight=mu, stop_after=None).edit(lm, REQUESTS), 1).norm())
        for mu in (0.0, 0.01, 0.1, 1.0, 10.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.8 * norms[0]


def test_encore_stores_the_keys_before_and_memit_seq_those_after_the_layers_below(lm):
    """The keys of layer 1 change with the edit of layer 0 alone."""
    before, _ = stacked(lm, REQUESTS, 1, 1)
    edit = encore(0, 1, norm_weight=0.1, stop_after=None).edit(lm, REQUESTS)
    lower = {lm.mlp_weight_name(0): edit.weights[lm.mlp_weight_name(0)]}
    lm.parameter(lm.mlp_weight_name(0)).data = lower[lm.mlp_weight_name(0)]
    behind, _ = stacked(lm, REQUESTS, 1, 1)
    stored = edit.state.tensors["1"].double()
    assert relative(stored, behind) < 1e-5
    assert relative(stored, before) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["sketches", "Mexico City"])
def test_the_early_stop_counts_iterations_with_all_targets_most_probable(kind, target):
    """The value after k iterations, from runs with k iterations, is checked by whole forward passes."""
    lm = untrained(kind, 0)
    request = EditRequest("Susan saw {}", "this", target, "sketch")
    more = {"learning_rate": 1.0, "clamp": 20.0, "stop_below": 0.0, "steps": 30}
    losses = encore(1, norm_weight=0.1, stop_after=2, **more).edit(lm, [request]).diagnostics["losses"][0]
    assert (len(losses) < 30) == (target == "sketches")  # the other target has three tokens and is not reached
    hits = []
    for steps in range(1, len(losses) + 1):
        objective = encore(1, **{**NOTHING, **more, "steps": steps}).config.objective
        (vector,) = value_vectors(lm, [request], 1, CONTEXTS, objective, "block")
        assert vector.losses == pytest.approx(losses[:steps], rel=1e-4)
        hits.append(all(is_most_probable(lm, request, context, vector) for context in CONTEXTS))
    assert sum(hits) == (2 if target == "sketches" else 0)
    assert hits[-1] == (target == "sketches")


def is_most_probable(lm, request, context, vector):
    """Return whether all tokens of the target are, with v* - v0 added to the block's output at the subject."""
    prompt, target = lm.split(context.replace("{}", request.text, 1), request.target_new)
    _, span = lm.subject_span(context.replace("{}", request.prompt, 1), request.subject, request.target_new)

    def add(_module, _args, output):
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[0, span[-1]] += vector.value - vector.bare_value
        return (state, *output[1:]) if isinstance(output, tuple) else state

    hook = lm.block(1).register_forward_hook(add)
    try:
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([prompt + target])).logits[0]
    finally:
        hook.remove()
    return logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(target)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm_weight": "-1"}, "norm_weight must not be negative, and ridge must be above 0"),
        ({"ridge": "0"}, "norm_weight must not be negative, and ridge must be above 0"),
        ({"stop_after": "0"}, "stop_after must be at least 1, or none"),
    ],
)
def test_values_of_encore_are_checked(values, message, lm):
    with pytest.raises(KnbenchError, match=f"editor 'encore': {message}"):
        build_editor(Encore, lm, values)
