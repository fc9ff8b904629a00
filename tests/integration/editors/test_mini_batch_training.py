"""FT-M and LocFT-BF equal plain training loops, and their batches contain nothing but targets."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import EditStack, build_editor
from knbench.editors.ft import FineTuning
from knbench.editors.ft_m import MaskedFineTuning
from knbench.editors.locft import LocalisedFineTuning
from knbench.editors.shared.batches import TargetBatch
from knbench.editors.shared.training import shuffled

from tests.conftest import make_lm

REQUESTS = (
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
    EditRequest("Susan saw {}", "this", "sketches", "books"),
)
LAYER = 2


def plain_training(lm, start, groups, *, epochs, end, learning_rate=1e-3, stop_below=1e-2):
    """Train W request by request without padding, and return it with the losses of every mini-batch.

    Args:
        groups: requests of each mini-batch, by epoch.
        end: the token after each target, or None.
    """
    name = lm.mlp_weight_name(LAYER)
    parameter = lm.parameter(name)
    original = parameter.data
    weight = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([weight], lr=learning_rate)
    losses = []
    for epoch in range(epochs):
        sizes = []
        for group in groups[epoch]:
            parameter.data = weight.data
            parameter.requires_grad_(True)
            total = torch.zeros(())
            for request in group:
                context, target = lm.split(request.text, request.target_new)
                target = target if end is None else (*target, end)
                logits = lm.model(input_ids=torch.tensor([context + target])).logits[0, len(context) - 1 : -1]
                total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(target)) / len(group)
            losses.append(total.item())
            sizes.append(len(group))
            if losses[-1] >= stop_below:
                (weight.grad,) = torch.autograd.grad(total, [parameter])
                optimiser.step()
        recent = losses[-len(sizes) :]
        if sum(n * x for n, x in zip(sizes, recent, strict=True)) / sum(sizes) < stop_below:
            break
    parameter.requires_grad_(False)
    parameter.data = original
    return weight.data, losses


def chunks(order, size):
    return [[REQUESTS[i] for i in order[at : at + size]] for at in range(0, len(order), size)]


# --- the batch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [True, False])
def test_targets_are_never_prompt_bos_or_padding(bos):
    lm = make_lm("llama", bos=bos)
    end = lm.tokenizer.eos_token_id
    batch = TargetBatch.of(lm, REQUESTS, end_of_text=True)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    for row, request in enumerate(REQUESTS):
        context, target = lm.split(request.text, request.target_new)
        mine = batch.rows == row
        assert batch.targets[mine].tolist() == [*target, end]
        assert ids[row, : int(mask[row].sum())].tolist() == [*context, *target]
        assert batch.columns[mine].tolist() == list(range(len(context) - 1, len(context) + len(target)))


def test_the_selected_rows_are_a_batch_of_these_requests():
    lm = make_lm("llama")
    batch = TargetBatch.of(lm, REQUESTS).select([2, 0])
    expected = TargetBatch.of(lm, [REQUESTS[2], REQUESTS[0]])
    assert torch.equal(batch.inputs["input_ids"], expected.inputs["input_ids"])
    assert torch.equal(batch.inputs["attention_mask"], expected.inputs["attention_mask"])
    for field in ("rows", "columns", "targets"):
        assert torch.equal(getattr(batch, field), getattr(expected, field))


def test_the_loss_over_tokens_weighs_longer_targets_more():
    lm = make_lm("gpt2")
    batch = TargetBatch.of(lm, REQUESTS)
    logits = torch.randn(len(batch.targets), lm.model.config.vocab_size)
    nll = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    torch.testing.assert_close(batch.token_loss(logits), nll.mean())
    assert float(batch.token_loss(logits)) != pytest.approx(float(batch.loss(logits)), rel=1e-3)


def test_a_tokenizer_without_end_of_text_is_refused():
    lm = make_lm("llama")
    lm.tokenizer.eos_token = None
    try:
        with pytest.raises(ValueError, match="set end_of_text to false"):
            TargetBatch.of(lm, REQUESTS, end_of_text=True)
    finally:
        lm.tokenizer.eos_token = "</s>"


# --- FT-M ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_ft_m_of_one_request_is_ft(kind):
    lm = make_lm(kind)
    for request in REQUESTS:
        expected = build_editor(FineTuning, lm, {"layer": "2", "steps": "5"})[0].edit(lm, [request])
        found = build_editor(MaskedFineTuning, lm, {"layer": "2", "epochs": "5"})[0].edit(lm, [request])
        assert found.diagnostics["losses"] == pytest.approx(expected.diagnostics["losses"], abs=1e-6)
        name = lm.mlp_weight_name(LAYER)
        torch.testing.assert_close(found.weights[name], expected.weights[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ft_m_equals_training_without_padding(kind, size):
    lm = make_lm(kind)
    before = lm.weight_hash()
    editor, _ = build_editor(
        MaskedFineTuning, lm, {"layer": "2", "epochs": "3", "batch_size": str(size), "learning_rate": "1e-3"}
    )
    edit = editor.edit(lm, REQUESTS)
    assert lm.weight_hash() == before
    name = lm.mlp_weight_name(LAYER)
    groups = [chunks(range(3), size)] * 3
    weight, losses = plain_training(lm, lm.parameter(name).detach(), groups, epochs=3, end=None)
    torch.testing.assert_close(edit.weights[name], weight, atol=2e-5, rtol=1e-4)
    first = losses[: len(groups[0])]
    mean = sum(len(group) * x for group, x in zip(groups[0], first, strict=True)) / 3
    assert edit.diagnostics["losses"][0] == pytest.approx(mean, rel=1e-5)


def test_a_mini_batch_below_the_bound_makes_no_step_and_an_epoch_below_it_ends_the_training():
    lm = make_lm("llama")
    name = lm.mlp_weight_name(LAYER)
    values = {"layer": "2", "learning_rate": "0.05", "epochs": "40", "stop_below": "0.3"}
    edit = build_editor(MaskedFineTuning, lm, values)[0].edit(lm, REQUESTS)
    weight, losses = plain_training(
        lm, lm.parameter(name).detach(), [chunks(range(3), 1)] * 40, epochs=40, end=None, learning_rate=0.05,
        stop_below=0.3,
    )  # fmt: skip
    assert any(loss < 0.3 for loss in losses[:-3])  # a mini-batch was skipped before the last epoch
    assert len(edit.diagnostics["losses"]) == len(losses) / 3 < 40
    torch.testing.assert_close(edit.weights[name], weight, atol=1e-3, rtol=1e-3)


def test_a_bfloat16_model_is_trained_in_float32():
    """In bfloat16, a step of 5e-4 would vanish for weights above 0.25."""
    lm = make_lm("llama", dtype=torch.bfloat16)
    name = lm.mlp_weight_name(LAYER)
    edit = build_editor(MaskedFineTuning, lm, {"layer": "2", "epochs": "8"})[0].edit(lm, REQUESTS[:1])
    assert edit.weights[name].dtype == torch.bfloat16
    change = edit.weights[name].float() - lm.parameter(name).float()
    # Eight steps of at most 5e-4 exceed half the spacing of bfloat16 numbers below 0.5, 1e-3.
    assert float((change[lm.parameter(name).abs() < 0.5] != 0).float().mean()) > 0.5


# --- LocFT-BF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("end_of_text", [True, False])
def test_locft_equals_training_in_the_shuffled_orders(kind, end_of_text):
    lm = make_lm(kind)
    values = {"layer": "2", "epochs": "4", "batch_size": "2", "learning_rate": "1e-3", "end_of_text": str(end_of_text)}
    editor, _ = build_editor(LocalisedFineTuning, lm, values, seed=7)
    edit = editor.edit(lm, REQUESTS)
    from knbench.benchmark.core.schema import derived_seed

    orders = shuffled(3, derived_seed(7, "locft", "order"))
    groups = [chunks(next(orders), 2) for _ in range(4)]
    assert len({str(group) for group in groups}) > 1
    end = lm.tokenizer.eos_token_id if end_of_text else None
    name = lm.mlp_weight_name(LAYER)
    weight, _ = plain_training(lm, lm.parameter(name).detach(), groups, epochs=4, end=end)
    torch.testing.assert_close(edit.weights[name], weight, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_locft_of_one_mini_batch_without_end_of_text_is_full_batch_ft(kind):
    lm = make_lm(kind)
    name = lm.mlp_weight_name(LAYER)
    values = {"layer": "2", "epochs": "4", "end_of_text": "false"}
    found = build_editor(LocalisedFineTuning, lm, values)[0].edit(lm, REQUESTS)
    expected = build_editor(FineTuning, lm, {"layer": "2", "steps": "4"})[0].edit(lm, REQUESTS)
    assert found.diagnostics["losses"] == pytest.approx(expected.diagnostics["losses"], rel=1e-5)
    torch.testing.assert_close(found.weights[name], expected.weights[name], atol=2e-5, rtol=1e-4)


def test_with_one_mini_batch_the_order_of_the_requests_has_no_effect():
    lm = make_lm("llama")
    name = lm.mlp_weight_name(LAYER)
    editor, _ = build_editor(LocalisedFineTuning, lm, {"layer": "2", "epochs": "4"})
    first, second = (editor.edit(lm, requests).weights[name] for requests in (REQUESTS, REQUESTS[::-1]))
    torch.testing.assert_close(first, second, atol=2e-5, rtol=1e-4)


def test_a_sequence_of_locft_starts_from_the_unedited_weight_and_trains_on_all_requests():
    lm = make_lm("llama")
    name = lm.mlp_weight_name(LAYER)
    editor, _ = build_editor(LocalisedFineTuning, lm, {"layer": "2", "epochs": "3", "batch_size": "2"})
    assert editor.replays
    together = editor.edit(lm, REQUESTS)
    with EditStack(lm) as stack:
        for number, request in enumerate(REQUESTS):
            edit = editor.edit_next(lm, [request], REQUESTS[:number], stack.state)
            stack.push(edit)
            assert edit.diagnostics["requests"] == number + 1
    assert torch.equal(edit.weights[name], together.weights[name])


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (MaskedFineTuning, {"batch_size": "0"}),
        (LocalisedFineTuning, {"epochs": "0"}),
        (MaskedFineTuning, {"layer": "-1"}),
    ],
)
def test_values_out_of_range_are_refused(cls, values):
    with pytest.raises(KnbenchError, match="at least"):
        build_editor(cls, make_lm("llama"), values)
