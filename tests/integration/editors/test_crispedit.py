"""CrispEdit: the projection, its limits, and the curvature in a sequence."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import EditStack, build_editor
from knbench.editors.crispedit import CrispEdit
from knbench.editors.locft import LocalisedFineTuning
from knbench.editors.shared.curvature import Curvature, moments

from tests.conftest import make_lm

REQUESTS = (
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
    EditRequest("Susan saw {}", "this", "sketches", "books"),
)
ARGS = {"layers": "1|2", "epochs": "4", "texts": "8", "corpus_length": "16", "energy": "0.5"}


def covariance(size, seed):
    rows = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ rows / len(rows)


def curvatures(editor, lm):
    """Return the curvature by weight before the first edit."""
    state = editor._first_state(lm, Reporter())
    names = [lm.mlp_weight_name(layer) for layer in editor.config.layers]
    keys = ("input_values", "input_vectors", "output_values", "output_vectors")
    return {name: Curvature(*(state.tensors[f"{name}/{key}"] for key in keys)) for name in names}


# --- the projection --------------------------------------------------------------------------------------------------


def test_the_projector_is_idempotent_and_self_adjoint():
    curvature = Curvature.of(covariance(7, 0), covariance(4, 1))
    exact = Curvature(*(getattr(curvature, name).double() for name in Curvature.__dataclass_fields__))
    # Eigenvectors are stored in float32; make them orthogonal in float64 for the comparison.
    exact = Curvature(exact.input_values, torch.linalg.qr(exact.input_vectors).Q, exact.output_values,
                      torch.linalg.qr(exact.output_vectors).Q)  # fmt: skip
    allowed = exact.allowed(0.6)
    assert 0 < int(allowed.sum()) < allowed.numel()
    G, H = (torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (2, 3))
    once = exact.project(G, allowed)
    torch.testing.assert_close(exact.project(once, allowed), once, atol=1e-12, rtol=1e-10)
    assert float((once * H).sum()) == pytest.approx(float((G * exact.project(H, allowed)).sum()), rel=1e-10)


def test_the_products_of_the_eigenvalues_sum_to_the_product_of_the_traces():
    A, B = covariance(7, 0), covariance(4, 1)
    curvature = Curvature.of(A, B)
    products = torch.outer(curvature.output_values, curvature.input_values)
    assert float(products.sum()) == pytest.approx(float(A.trace() * B.trace()), rel=1e-5)
    again = curvature.matrices()
    torch.testing.assert_close(again[0], A, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again[1], B, atol=1e-5, rtol=1e-4)


def test_the_share_decides_the_allowed_directions():
    curvature = Curvature.of(torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([2.0, 1.0])))
    # Products 8, 4, 2, 1 of the total 15.
    expected = {0.0: {4, 2, 1}, 0.5: {4, 2, 1}, 0.6: {2, 1}, 0.8: {2, 1}, 0.9: {1}, 1.0: set()}
    products = torch.outer(curvature.output_values, curvature.input_values)
    for energy, found in expected.items():
        assert {round(float(x)) for x in products[curvature.allowed(energy)]} == found


def test_with_equal_output_gradients_the_projection_is_that_of_the_input_side():
    """B = I leaves whole columns: G~ = G (1 - V V^T) with the eigenvectors V of A above the threshold."""
    A = torch.diag(torch.tensor([5.0, 3.0, 0.2, 0.1]))
    curvature = Curvature.of(A, torch.eye(3))
    allowed = curvature.allowed(0.9)
    G = torch.randn(3, 4)
    torch.testing.assert_close(curvature.project(G, allowed), G * torch.tensor([0.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_moments_of_requests_are_those_of_their_target_positions(kind):
    lm = make_lm(kind)
    module = lm.mlp_out(2)
    found = moments(lm, {"w": module}, torch.zeros(0, 5, dtype=torch.long), REQUESTS[:1])["w"]
    context, target = lm.split(REQUESTS[0].text, REQUESTS[0].target_new)
    captured = []
    handle = module.register_forward_hook(lambda _m, args, output: captured.append((args[0], output)))
    lm.model.requires_grad_(True)
    logits = lm.model(input_ids=torch.tensor([context + target])).logits[0]
    handle.remove()
    at = range(len(context) - 1, len(context) + len(target) - 1)
    loss = sum(-logits[i].log_softmax(-1)[token] for i, token in zip(at, target, strict=True))
    (gradient,) = torch.autograd.grad(loss, captured[0][1])
    lm.model.requires_grad_(False)
    h, g = (x[0, list(at)].detach().double() for x in (captured[0][0], gradient))
    assert found.tokens == len(target)
    torch.testing.assert_close(found.inputs, h.T @ h, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.outputs, g.T @ g, atol=1e-4, rtol=1e-4)


# --- edits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_with_sgd_the_change_has_no_part_in_the_protected_directions(kind):
    lm = make_lm(kind)
    before = lm.weight_hash()
    parts = {}
    for optimiser, rate in (("sgd", "0.05"), ("adam", "5e-4")):
        editor, _ = build_editor(CrispEdit, lm, {**ARGS, "optimiser": optimiser, "learning_rate": rate})
        edit = editor.edit(lm, REQUESTS)
        for layer in (1, 2):
            name = lm.mlp_weight_name(layer)
            change = lm.as_stored(layer, edit.weights[name] - lm.parameter(name).detach())
            curvature = curvatures(editor, lm)[name]
            turned = curvature.output_vectors.T @ change @ curvature.input_vectors
            parts[optimiser, layer] = float((turned * ~curvature.allowed(0.5)).norm() / turned.norm())
    assert lm.weight_hash() == before
    assert max(parts["sgd", 1], parts["sgd", 2]) < 1e-3
    assert min(parts["adam", 1], parts["adam", 2]) > 1e-3  # Adam rescales every entry


def test_without_protection_it_is_fine_tuning(monkeypatch):
    """All directions allowed, one layer, and targets of equal length: the loop of LocFT without end of text."""
    lm = make_lm("llama")
    equal = [
        r for r in REQUESTS if len(lm.split(r.text, r.target_new)[1]) == len(lm.split(REQUESTS[0].text, "Rome")[1])
    ]
    monkeypatch.setattr(Curvature, "allowed", lambda self, _: torch.ones(len(self.output_values), len(self.input_values), dtype=torch.bool))  # fmt: skip  # noqa: E501
    values = {"epochs": "3", "learning_rate": "1e-3"}
    found = build_editor(CrispEdit, lm, {**ARGS, "layers": "2", **values})[0].edit(lm, equal)
    expected = build_editor(LocalisedFineTuning, lm, {"layer": "2", "end_of_text": "false", **values})[0].edit(
        lm, equal
    )
    name = lm.mlp_weight_name(2)
    assert found.diagnostics["losses"] == pytest.approx(expected.diagnostics["losses"], rel=1e-5)
    torch.testing.assert_close(found.weights[name], expected.weights[name], atol=5e-5, rtol=1e-3)


def test_with_all_curvature_protected_nothing_changes():
    lm = make_lm("llama")
    edit = build_editor(CrispEdit, lm, {**ARGS, "energy": "1"})[0].edit(lm, REQUESTS)
    assert edit.diagnostics["allowed"] == [0.0, 0.0]
    for name, new in edit.weights.items():
        assert torch.equal(new, lm.parameter(name))


def test_the_change_costs_less_curvature_than_fine_tuning():
    """tr(B D A D^T) per squared norm of D, compared with the same loop without a projection."""
    lm = make_lm("llama")
    ratios = []
    for energy in ("0.9", "0"):
        editor, _ = build_editor(CrispEdit, lm, {**ARGS, "energy": energy, "layers": "2"})
        name = lm.mlp_weight_name(2)
        change = (editor.edit(lm, REQUESTS).weights[name] - lm.parameter(name).detach()).double()
        A, B = curvatures(editor, lm)[name].matrices()
        ratios.append(float((B @ change @ A @ change.T).trace() / change.norm() ** 2))
    assert ratios[0] < 0.5 * ratios[1]


@pytest.mark.parametrize("statistics", ["average", "renewed"])
def test_the_curvature_of_a_sequence_is_updated_after_a_chunk(statistics):
    lm = make_lm("llama")
    editor, _ = build_editor(CrispEdit, lm, {**ARGS, "layers": "2", "chunk": "2", "statistics": statistics})
    name = lm.mlp_weight_name(2)
    states = []
    with EditStack(lm) as stack:
        for number, request in enumerate(REQUESTS):
            if number == 2:
                rows = stack.state.tensors["text"] if statistics == "renewed" else torch.zeros(0, 16, dtype=torch.long)
                new = moments(lm, {name: lm.mlp_out(2)}, rows, REQUESTS[:2])[name]
            stack.push(editor.edit_next(lm, [request], REQUESTS[:number], stack.state))
            states.append(stack.state)
    first = {key: value for key, value in states[0].tensors.items() if "vectors" in key or "values" in key}
    assert all(states[1].tensors[key] is value for key, value in first.items())  # shared, not copied
    assert [state.settings["edits"] for state in states] == [1, 2, 1]
    steps = [float(state.tensors[f"{name}/step"]) for state in states]
    assert steps == sorted(steps)
    assert steps[2] > steps[0] > 0  # one optimiser for the whole sequence
    inputs, outputs, tokens = new.inputs, new.outputs, new.tokens
    if statistics == "average":
        old = curvatures(editor, lm)[name].matrices()
        count = 8 * 15  # the last position of a text predicts nothing
        inputs, outputs = inputs + count * old[0], outputs + count * old[1]
        tokens += count
    assert states[2].settings["tokens"] == tokens
    keys = ("input_values", "input_vectors", "output_values", "output_vectors")
    found = Curvature(*(states[2].tensors[f"{name}/{key}"] for key in keys)).matrices()
    assert float((found[0] - inputs / tokens).norm() / found[0].norm()) < 1e-4
    assert float((found[1] - outputs / tokens).norm() / found[1].norm()) < 1e-4


def test_a_sequence_without_its_state_and_values_out_of_range_are_refused():
    lm = make_lm("llama")
    editor, _ = build_editor(CrispEdit, lm, ARGS)
    with pytest.raises(ValueError, match="pass the state"):
        editor.edit_next(lm, REQUESTS[1:2], REQUESTS[:1], None)
    with pytest.raises(KnbenchError, match="between 0 and 1"):
        build_editor(CrispEdit, lm, {**ARGS, "energy": "1.5"})
