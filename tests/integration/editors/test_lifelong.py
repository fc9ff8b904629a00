"""UltraEdit and StableEdit: running statistics, ridge regression, and sequences of edits."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.core.split import split_cases
from knbench.benchmark.editing import EditStack, build_editor
from knbench.editors.shared.running_statistics import RunningStatistics, as_state, from_state
from knbench.editors.shared.target_gradients import target_gradients
from knbench.editors.shared.warm_up import warm_up_requests
from knbench.editors.stableedit import StableEdit
from knbench.editors.ultraedit import UltraEdit, ridge_regression

from tests.conftest import make_lm

REQUESTS = (
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
    EditRequest("Susan saw {}", "this", "sketches", "books"),
    EditRequest("The sisters usually {}", "bake", "those books", "this"),
)
SMALL = {"warm_up": "12", "warm_up_tasks": "capital|instrument"}


def random_rows(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(b, 6, generator=generator), 3 + 0.1 * torch.randn(b, 4, generator=generator)) for b in sizes]


def accumulated(batches, variance):
    statistics = RunningStatistics.empty(6, 4, with_outer=True)
    for inputs, gradients in batches:
        statistics = statistics.add(inputs, gradients, variance)
    return statistics


def norm(tensors):
    return float(torch.stack([t.norm() for t in tensors]).norm())


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gptj", "bert"])
def test_gradients_times_inputs_are_the_gradient_of_the_weight_if_targets_have_one_token(kind):
    lm = make_lm(kind)
    layer = lm.n_layers - 1  # in the last layer, other positions have no gradient
    module = lm.mlp_out(layer)
    for reduction in ("mean", "sum"):
        rows = target_gradients(lm, REQUESTS, {"down": module}, reduction)
        inputs, gradients = rows["down"]
        weight = module.weight.requires_grad_(True)
        losses = []
        for request in REQUESTS:
            for query in lm.token_queries(request.text, request.target_new, ".")[: None if lm.causal else 1]:
                logits = lm.model(input_ids=torch.tensor([query.ids])).logits[0]
                if lm.causal:
                    losses.append(-logits[query.position].log_softmax(-1)[query.token])
                else:  # all tokens of the target are masked at once
                    for other in lm.token_queries(request.text, request.target_new, "."):
                        losses.append(-logits[other.position].log_softmax(-1)[other.token])
        loss = torch.stack(losses)
        (expected,) = torch.autograd.grad(loss.mean() if reduction == "mean" else loss.sum(), weight)
        weight.requires_grad_(False)
        assert len(inputs) == len(losses)
        torch.testing.assert_close(gradients.T @ inputs, lm.as_stored(layer, expected), atol=1e-5, rtol=1e-3)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_biased_statistics_are_those_of_all_rows_at_once():
    batches = random_rows([3, 1, 7, 2])
    found = accumulated(batches, "biased")
    rows = torch.cat([torch.cat(pair, 1) for pair in batches]).double()
    assert found.count == 13
    torch.testing.assert_close(found.mean, rows.mean(0), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(found.squares, rows.var(0, unbiased=False) * 13, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(found.outer, rows[:, 6:].T.cov() * 12, atol=1e-10, rtol=1e-10)


def test_unbiased_statistics_depend_on_the_mini_batches_and_biased_ones_do_not():
    rows = random_rows([12])[0]
    split = [(rows[0][i : i + 3], rows[1][i : i + 3]) for i in range(0, 12, 3)]
    whole, parts = (accumulated(batches, "unbiased").squares for batches in ([rows], split))
    assert float(((whole - parts) / whole).abs().max()) > 0.01
    whole, parts = (accumulated(batches, "biased").squares for batches in ([rows], split))
    torch.testing.assert_close(whole, parts, atol=1e-10, rtol=1e-10)


def test_a_mini_batch_of_one_row_is_finite():
    found = accumulated(random_rows([1, 1]), "unbiased")
    assert bool(found.squares.isfinite().all())
    assert bool((found.squares > 0).all())


def test_whitened_gradients_have_a_covariance_near_the_identity():
    batches = random_rows([4000])
    mixed = batches[0][1] @ torch.tensor([[2.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 3], [0, 0, 0, 1]])
    statistics = accumulated([(batches[0][0], mixed)], "biased")
    whitened = statistics.whiten(mixed)
    torch.testing.assert_close(whitened.T.cov(), torch.eye(4, dtype=torch.float64), atol=5e-3, rtol=0)
    assert not accumulated(random_rows([5]), "biased").can_whiten  # n > out + 1
    assert accumulated(random_rows([6]), "biased").can_whiten


def test_scaling_the_gradients_of_all_rows_leaves_the_normalised_gradients():
    batches = random_rows([5, 9])
    scaled = [(inputs, 7 * gradients) for inputs, gradients in batches]
    for variance in ("biased", "unbiased"):
        first = accumulated(batches, variance).normalise(*batches[1])[1]
        second = accumulated(scaled, variance).normalise(*scaled[1])[1]
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_statistics_survive_the_state():
    found = {"6x4": accumulated(random_rows([3, 2]), "biased")}
    again = from_state(as_state(found))
    assert again["6x4"].count == 5
    assert torch.equal(again["6x4"].outer, found["6x4"].outer)
    assert as_state(again).digest() == as_state(found).digest()


# --- ridge regression ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [3, 20])
def test_both_forms_of_the_regression_agree_and_stay_in_the_span_of_the_inputs(rows):
    generator = torch.Generator().manual_seed(0)
    H, V = (torch.randn(rows, size, generator=generator, dtype=torch.float64) for size in (8, 5))
    found = ridge_regression(H, V, 2.0)
    for form in (
        V.T @ H @ torch.linalg.inv(H.T @ H + 2 * torch.eye(8, dtype=torch.float64)),
        V.T @ torch.linalg.inv(H @ H.T + 2 * torch.eye(rows, dtype=torch.float64)) @ H,
    ):
        torch.testing.assert_close(found, form, atol=1e-10, rtol=1e-8)
    projector = torch.linalg.pinv(H) @ H
    torch.testing.assert_close(found @ projector, found, atol=1e-10, rtol=1e-8)
    assert float(ridge_regression(H, V, 1e9).norm()) < 1e-6


# --- edits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [UltraEdit, StableEdit])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3", "bert"])
def test_a_sufficient_learning_rate_lowers_the_loss(cls, kind):
    lm = make_lm(kind)
    before = lm.weight_hash()
    layers = {"up": "1|2", "down": "1|2"}
    editor, _ = build_editor(cls, lm, {**SMALL, **layers, "learning_rate": "2e-4"})
    edit = editor.edit(lm, REQUESTS)
    assert lm.weight_hash() == before
    assert len(edit.diagnostics["update_norms"]) == len(edit.weights)

    def loss():
        from knbench.editors.shared.batches import TargetBatch

        batch = TargetBatch.of(lm, REQUESTS)
        with torch.no_grad(), batch.target_logits_only(lm):
            return float(batch.token_loss(lm.model(**batch.inputs).logits))

    first = loss()
    with edit.applied(lm):
        assert loss() < first


def test_the_order_of_the_requests_of_a_turn_has_no_effect_in_one_mini_batch():
    lm = make_lm("llama")
    for cls, size in ((UltraEdit, "10"), (StableEdit, "10"), (StableEdit, "1")):
        editor, _ = build_editor(cls, lm, {**SMALL, "batch_size": size})
        first, second = (editor.edit(lm, requests) for requests in (REQUESTS, REQUESTS[::-1]))
        changes = [[edit.weights[n] - lm.parameter(n).detach() for n in edit.weights] for edit in (first, second)]
        difference = norm([a - b for a, b in zip(*changes, strict=True)])
        assert difference < 1e-3 * norm(changes[0])


def test_the_next_edit_uses_the_statistics_of_all_edits():
    lm = make_lm("llama")
    editor, _ = build_editor(UltraEdit, lm, SMALL)
    with EditStack(lm) as stack:
        stack.push(editor.edit_next(lm, REQUESTS[:1], ()))
        first = stack.state
        counts = dict(first.settings["counts"])
        digest = first.digest()
        stack.push(editor.edit_next(lm, REQUESTS[1:2], REQUESTS[:1], first))
        assert first.digest() == digest
        rows = len(lm.split(REQUESTS[1].text, REQUESTS[1].target_new)[1])
        modules = len(editor.modules(lm))
        assert sum(stack.state.settings["counts"].values()) == sum(counts.values()) + rows * modules
        with pytest.raises(ValueError, match="pass the state"):
            editor.edit_next(lm, REQUESTS[2:3], REQUESTS[:2], None)


def test_the_warm_up_reads_tuning_cases_and_writes_nothing():
    lm = make_lm("llama")
    requests = warm_up_requests(lm, ["capital", "instrument"], 12)
    cases = {name: registry.task(name).cases for name in ("capital", "instrument")}
    tuning = {case.request for name in cases for case in split_cases(name, cases[name], "tune")}
    assert len(requests) == 12
    assert set(requests) <= tuning
    editor, _ = build_editor(UltraEdit, lm, SMALL)
    before = lm.weight_hash()
    prepared = editor.prepare(lm, Reporter())
    assert prepared == {"warm_up": {"requests": 12, "tasks": ["capital", "instrument"], "split": "tune"}}
    assert lm.weight_hash() == before


def test_without_warm_up_an_edit_of_one_row_is_refused():
    lm = make_lm("llama")
    one = next(
        EditRequest("The capital of {} is", "Canada", word, "")
        for word in ("Rome", "Ottawa", "Italy")
        if len(lm.split("The capital of Canada is", word)[1]) == 1
    )
    editor, _ = build_editor(UltraEdit, lm, {"warm_up": "0", "gate": "none", "up": "none", "down": "1"})
    with pytest.raises(ValueError, match="set warm_up above 0"):
        editor.edit(lm, [one])


def test_a_config_without_layers_is_refused():
    with pytest.raises(KnbenchError, match="at least one layer"):
        build_editor(UltraEdit, make_lm("llama"), {"gate": "none", "up": "none"})
