"""Fine-tuning: FT, FT-L, FT-W and LoRA equal plain training loops, and the batch that they train on."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.editors.ft import BoundedFineTuning, DecayedFineTuning, FineTuning
from knbench.editors.lora import Lora, LoraEditConfig
from knbench.editors.shared.batches import TargetBatch

from tests.conftest import CAUSAL, make_lm

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
TWO_TOKENS = EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics")


# --- the batch ---------------------------------------------------------------------------------------------------


def test_a_batch_contains_every_target_token_and_not_bos():
    lm = make_lm("llama", bos=True)
    batch = TargetBatch.of(lm, [REQUEST, TWO_TOKENS])
    targets = [lm.split(r.text, r.target_new)[1] for r in (REQUEST, TWO_TOKENS)]
    assert batch.targets.tolist() == [token for target in targets for token in target]
    assert lm.bos_id not in batch.targets
    assert batch.rows.tolist() == [0] * len(targets[0]) + [1] * len(targets[1])
    ids = batch.inputs["input_ids"]
    next_ids = [int(ids[row, column + 1]) for row, column in zip(batch.rows[:-1], batch.columns[:-1], strict=True)]
    assert next_ids[len(targets[0]) :] == batch.targets[len(targets[0]) : -1].tolist()


def test_a_batch_of_a_masked_model_masks_the_whole_target():
    lm = make_lm("bert")
    batch = TargetBatch.of(lm, [TWO_TOKENS])
    ids = batch.inputs["input_ids"][0]
    assert (ids[batch.columns] == lm.mask_id).all()
    ids[batch.columns] = batch.targets
    assert lm.decode(ids.tolist()).strip() == f"{TWO_TOKENS.text} {TWO_TOKENS.target_new}."


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_the_gradient_equals_finite_differences(kind):
    lm = make_lm(kind)
    lm.model.double()
    batch = TargetBatch.of(lm, [TWO_TOKENS])
    weight = lm.parameter(lm.mlp_weight_name(1)).requires_grad_()

    def loss():
        with batch.target_logits_only(lm):
            logits = lm.model(**batch.inputs).logits
        return torch.nn.functional.cross_entropy(logits, batch.targets)

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        for index in ((0, 0), (3, 5), (20, 11)):
            values = []
            for step in (1e-3, -1e-3):
                weight[index] += step
                values.append(float(loss()))
                weight[index] -= step
            assert float(gradient[index]) == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2, abs=1e-6)


# --- FT, FT-L, FT-W ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CAUSAL)
def test_ft_equals_training_with_passes_through_the_whole_model(kind):
    lm = make_lm(kind)
    before = lm.weight_hash()
    editor, _ = build_editor(FineTuning, lm, {"layer": "2", "steps": "4", "learning_rate": "1e-3"})
    edit = editor.edit(lm, [TWO_TOKENS])
    assert lm.weight_hash() == before
    weight = lm.parameter(lm.mlp_weight_name(2)).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=1e-3)
    context, target = lm.split(TWO_TOKENS.text, TWO_TOKENS.target_new)
    losses = []
    for _ in range(4):
        logits = lm.model(input_ids=torch.tensor([context + target])).logits[0]
        logprobs = logits[len(context) - 1 : -1].log_softmax(-1)
        loss = -torch.stack([logprobs[i, token] for i, token in enumerate(target)]).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert edit.diagnostics["losses"] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(edit.weights[lm.mlp_weight_name(2)], weight.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", CAUSAL)
def test_facts_have_the_same_weight_whatever_the_length_of_their_targets(kind):
    """The loss is the mean over facts of the mean over tokens, as in the code of Meng et al. 2022."""
    lm = make_lm(kind)
    editor, _ = build_editor(FineTuning, lm, {"layer": "2", "steps": "3", "learning_rate": "1e-3"})
    edit = editor.edit(lm, [REQUEST, TWO_TOKENS])
    weight = lm.parameter(lm.mlp_weight_name(2)).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=1e-3)
    losses, lengths = [], set()
    for _ in range(3):
        means = []
        for request in (REQUEST, TWO_TOKENS):
            context, target = lm.split(request.text, request.target_new)
            lengths.add(len(target))
            logprobs = lm.model(input_ids=torch.tensor([context + target])).logits[0, len(context) - 1 : -1]
            means.append(torch.nn.functional.cross_entropy(logprobs, torch.tensor(target)))
        loss = (means[0] + means[1]) / 2
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert len(lengths) == 2
    assert edit.diagnostics["losses"] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(edit.weights[lm.mlp_weight_name(2)], weight.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_ft_l_reaches_its_bound_and_does_not_exceed_it(lm, epsilon):
    editor, _ = build_editor(BoundedFineTuning, lm, {"layer": "2", "steps": "5", "epsilon": str(epsilon)})
    (name,) = (edit := editor.edit(lm, [TWO_TOKENS])).weights
    change = (edit.weights[name] - lm.parameter(name)).abs()
    assert epsilon * 0.99 <= float(change.max()) <= epsilon * (1 + 1e-3) + 1e-7
    unbounded, _ = build_editor(FineTuning, lm, {"layer": "2", "steps": "5"})
    assert float((unbounded.edit(lm, [TWO_TOKENS]).weights[name] - lm.parameter(name)).abs().max()) > 1e-3


def test_the_weight_decay_of_ft_w_is_that_of_adam(lm):
    editor, _ = build_editor(DecayedFineTuning, lm, {"layer": "2", "steps": "1", "weight_decay": "1e6"})
    (name,) = (edit := editor.edit(lm, [REQUEST])).weights
    start = lm.parameter(name)
    # The decay dominates the gradient: every weight moves one step towards zero.
    step = edit.weights[name] - start
    assert torch.equal(step.sign()[start.abs() > 1e-3], -start.sign()[start.abs() > 1e-3])
    torch.testing.assert_close(step.abs(), torch.full_like(step, 5e-4), atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("cls", [FineTuning, BoundedFineTuning, Lora])
def test_training_lowers_the_loss_on_a_masked_model(cls):
    lm = make_lm("bert")
    before = lm.weight_hash()
    edit = build_editor(cls, lm, {"steps": "6"})[0].edit(lm, [TWO_TOKENS])
    assert edit.diagnostics["losses"][-1] < edit.diagnostics["losses"][0]
    assert lm.weight_hash() == before


# --- LoRA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_the_merged_weights_of_lora_equal_its_adapters(kind):
    """The merged weights give the logits of the adapted modules: the scaled product, in the right layout."""
    from peft import LoraConfig, get_peft_model

    lm = make_lm(kind)
    before = lm.weight_hash()
    torch.manual_seed(0)
    edit = Lora(LoraEditConfig(steps=3)).edit(lm, [TWO_TOKENS])
    assert lm.weight_hash() == before
    assert not any("lora" in name for name, _ in lm.model.named_modules())
    batch = TargetBatch.of(lm, [TWO_TOKENS])
    reference = make_lm(kind)
    torch.manual_seed(0)
    adapted = get_peft_model(reference.model, LoraConfig(r=8, lora_alpha=32))
    optimiser = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(3):
        logits = adapted(**batch.inputs).logits
        loss = torch.nn.functional.cross_entropy(logits[batch.rows, batch.columns], batch.targets)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert edit.diagnostics["losses"] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]
    with edit.applied(lm), torch.no_grad():
        torch.testing.assert_close(
            lm.model(**batch.inputs).logits, adapted(**batch.inputs).logits, atol=2e-3, rtol=1e-3
        )


def test_lora_names_modules_that_do_not_exist(lm):
    with pytest.raises(ValueError, match="nowhere"):
        Lora(LoraEditConfig(targets=("nowhere",))).edit(lm, [REQUEST])
