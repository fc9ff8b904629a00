"""Edits are made and taken back bit for bit; editors agree with slow versions on every family."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.benchmark.editing import Edit, NoConfig, build_editor
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.probing.causal import Prober
from knbench.editors.ft import BoundedFineTuning, DecayedFineTuning, FineTuning
from knbench.editors.in_context import InContext
from knbench.editors.lora import Lora, LoraEditConfig
from knbench.editors.none import NoEdit
from knbench.editors.rome import RandomUpdate, Rome, RomeConfig, RRome
from knbench.editors.shared.batches import TargetBatch
from knbench.editors.shared.value_vectors import ValueObjective, value_vectors

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_probing import slow_answer
from tests.references.slow_rome import slow_value_vector

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
TWO_TOKENS = EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics")
CUE = EditRequest("Susan saw {}", "this", "sketches", "sketch")
CONTEXTS = ("{}", "Because it was late. {}", "You and I. {}")
OBJECTIVE = ValueObjective(steps=6, learning_rate=0.1, weight_decay=0.01, clamp=3.0, kl_factor=0.5, stop_below=0.05)
NAME = "model.layers.1.mlp.down_proj.weight"


# --- making and taking back --------------------------------------------------------------------------------------


def test_weights_come_back_bit_for_bit_also_after_an_exception(lm):
    before = lm.weight_hash()
    new = torch.randn_like(lm.parameter(NAME))

    def interrupted():
        with Edit(weights={NAME: new}).applied(lm):
            assert torch.equal(lm.parameter(NAME), new)
            lm.parameter(NAME).data.add_(1.0)  # a second change inside is undone with the first
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lm.weight_hash() == before


def test_tied_weights_stay_tied(lm):
    name = "model.embed_tokens.weight"
    new = torch.zeros_like(lm.parameter(name))
    with Edit(weights={name: new}).applied(lm):
        assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight
        assert (lm.model(input_ids=torch.tensor([[5, 6]])).logits == 0).all()
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight


def test_hooks_and_prefix_are_taken_back(lm):
    ids = torch.tensor([[5, 6, 7]])
    before = lm.model(input_ids=ids).logits
    edit = Edit(outputs={"model.layers.1.mlp": lambda v: v * 0}, prefix="Note. ")
    with edit.applied(lm):
        assert lm.prompt_prefix == "Note. "
        assert not torch.allclose(lm.model(input_ids=ids).logits, before)
    assert lm.prompt_prefix == ""
    torch.testing.assert_close(lm.model(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        (NAME, torch.zeros(3, 3), "the parameter is"),
        (NAME, torch.zeros(32, 48, dtype=torch.float64), "float64"),
        (NAME, torch.full((32, 48), float("nan")), "not finite"),
        ("model.layers.9.mlp", torch.zeros(1), "has no parameter"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_changes_nothing(lm, name, tensor, complaint):
    before = lm.weight_hash()
    good = {"model.layers.0.mlp.down_proj.weight": torch.zeros(32, 48)}
    with pytest.raises(KnbenchError, match=complaint), Edit(weights={**good, name: tensor}).applied(lm):
        pass
    assert lm.weight_hash() == before


# --- configuration -----------------------------------------------------------------------------------------------


def test_hyper_parameters_generic_published_and_set_by_hand(lm):
    editor, source = build_editor(Rome, lm)
    assert (editor.config.layer, source) == (1, "generic")
    editor, source = build_editor(Rome, lm, {"layer": "2", "learning_rate": "5e-2", "contexts": "{}|He said. {}"})
    assert (editor.config.layer, editor.config.learning_rate) == (2, 0.05)
    assert editor.config.contexts == ("{}", "He said. {}")
    assert source == "generic; user set contexts, layer, learning_rate"
    lm.model.config.num_hidden_layers = 4
    gpt_j = next(p for p in Rome.published if p.shape["architecture"] == "GPTJForCausalLM")
    assert (gpt_j.shape["layers"], gpt_j.values["layer"], gpt_j.values["weight_decay"]) == (28, 5, 0.5)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"layr": "2"}, "did you mean 'layer'"),
        ({"layer": "two"}, "rome.layer=two: expected a whole number"),
        ({"steps": "0"}, "steps must be at least 1"),
        ({"contexts": "He said. {}"}, "begin with the empty one"),
    ],
)
def test_wrong_hyper_parameters_are_named(lm, args, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        build_editor(Rome, lm, args)


def test_a_masked_model_is_refused_by_editors_that_need_a_causal_one():
    with pytest.raises(KnbenchError, match="needs a causal model"):
        build_editor(Rome, make_lm("bert"))
    build_editor(NoEdit, make_lm("bert"))


# --- editors against references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_fast_value_vectors_equal_the_slow_ones_alone_and_together(kind, bos):
    lm = make_lm(kind, bos=bos)
    requests = [REQUEST, TWO_TOKENS, CUE]
    slow = [slow_value_vector(lm, r, 1, CONTEXTS, OBJECTIVE) for r in requests]
    joint = value_vectors(lm, requests, 1, CONTEXTS, OBJECTIVE)
    alone = [value_vectors(lm, [r], 1, CONTEXTS, OBJECTIVE)[0] for r in requests]
    for fast in (joint, alone):
        for found, reference in zip(fast, slow, strict=True):
            for part in ("key", "bare_key", "value", "bare_value"):
                torch.testing.assert_close(getattr(found, part), reference[part], atol=2e-4, rtol=2e-4)
            assert found.losses == pytest.approx(reference["losses"], rel=1e-3, abs=1e-4)
    assert slow[0]["losses"][0] > slow[0]["losses"][-1]


def test_requests_that_converge_early_stop_alone(lm):
    objective = ValueObjective(steps=30, learning_rate=0.2, weight_decay=0.0, clamp=9.0, kl_factor=0.0, stop_below=4.5)
    requests = [REQUEST, TWO_TOKENS, CUE]
    joint = value_vectors(lm, requests, 1, CONTEXTS, objective)
    lengths = [len(found.losses) for found in joint]
    assert len(set(lengths)) > 1
    assert min(lengths) < 30
    for request, found in zip(requests, joint, strict=True):
        (single,) = value_vectors(lm, [request], 1, CONTEXTS, objective)
        assert len(single.losses) == len(found.losses)
        torch.testing.assert_close(single.value, found.value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", CAUSAL)
def test_rome_maps_the_key_to_the_wanted_value_in_both_layouts(kind):
    """The identity that defines the update: after it, the layer maps the bare key to v* exactly."""
    lm = make_lm(kind)
    before = lm.weight_hash()
    editor = Rome(RomeConfig(layer=1, steps=5, learning_rate=0.1, contexts=CONTEXTS))
    edit = editor.edit(lm, [REQUEST])
    assert lm.weight_hash() == before
    (wanted,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, editor.config.objective)
    tokens, span = lm.subject_span(REQUEST.prompt, REQUEST.subject)
    with edit.applied(lm), capture({"v": (lm.mlp(1), "output")}) as seen:
        lm.model(input_ids=torch.tensor([tokens.ids]))
    torch.testing.assert_close(seen["v"][0, span[-1]], wanted.value, atol=1e-3, rtol=1e-3)
    (name,) = edit.weights
    change = edit.weights[name] - lm.parameter(name)
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 1


@pytest.mark.parametrize("kind", CAUSAL)
def test_r_rome_maps_the_mean_key_to_the_wanted_value(kind):
    lm = make_lm(kind)
    editor = RRome(RomeConfig(layer=1, steps=5, learning_rate=0.1, contexts=CONTEXTS))
    edit = editor.edit(lm, [REQUEST])
    (wanted,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, editor.config.objective)
    with edit.applied(lm):
        mapped = lm.mlp_out(1)(wanted.key[None, None])[0, 0]
    torch.testing.assert_close(mapped, wanted.value, atol=1e-3, rtol=1e-3)
    one_context = RomeConfig(layer=1, steps=5, learning_rate=0.1, contexts=("{}",))
    rome, r_rome = (cls(one_context).edit(lm, [REQUEST]).weights for cls in (Rome, RRome))
    (name,) = rome
    torch.testing.assert_close(rome[name], r_rome[name], atol=1e-5, rtol=1e-4)  # where mean and bare key are one


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_bounded_fine_tuning_stays_inside_its_bound_and_uses_it(lm, epsilon):
    editor, _ = build_editor(BoundedFineTuning, lm, {"layer": "2", "steps": "5", "epsilon": str(epsilon)})
    (name,) = (edit := editor.edit(lm, [TWO_TOKENS])).weights
    moved = (edit.weights[name] - lm.parameter(name)).abs()
    assert epsilon * 0.99 <= float(moved.max()) <= epsilon * (1 + 1e-3) + 1e-7
    unbound, _ = build_editor(FineTuning, lm, {"layer": "2", "steps": "5"})
    assert float((unbound.edit(lm, [TWO_TOKENS]).weights[name] - lm.parameter(name)).abs().max()) > 1e-3


def test_weight_decay_is_adams(lm):
    editor, _ = build_editor(DecayedFineTuning, lm, {"layer": "2", "steps": "1", "weight_decay": "1e6"})
    (name,) = (edit := editor.edit(lm, [REQUEST])).weights
    start = lm.parameter(name)
    step = edit.weights[name] - start  # a decay that drowns the gradient: every weight goes one step towards zero
    assert torch.equal(step.sign()[start.abs() > 1e-3], -start.sign()[start.abs() > 1e-3])
    torch.testing.assert_close(step.abs(), torch.full_like(step, 5e-4), atol=1e-6, rtol=1e-2)


def test_in_context_says_the_fact_and_changes_no_weight(lm):
    before = lm.weight_hash()
    edit = InContext(NoConfig()).edit(lm, [REQUEST])
    assert edit.prefix == "The capital of Canada is Rome. "
    assert not edit.weights
    pair = Probe("symmetry", "minimal_pair", "", "Susan revealed herself.", "Mark revealed herself.", "new")
    ask = Probe("symmetry", "completion", "Rome is the capital of", "Canada", "Italy", "new")
    with edit.applied(lm):
        seen = Prober(lm, new_tokens=0).observe([ask, pair])
        assert lm.weight_hash() == before
    said = slow_answer(lm, f"{edit.prefix}Rome is the capital of", "Canada")
    assert seen[0]["target"]["logprob"] == pytest.approx(said["logprob"], abs=1e-3)
    said = slow_answer(lm, edit.prefix.strip(), "Susan revealed herself.")
    assert seen[1]["target"]["logprob"] == pytest.approx(said["logprob"], abs=1e-3)


def test_contexts_are_seeded_and_do_not_outlive_their_model():
    one, other = make_lm("llama", seed=1), make_lm("llama", seed=2)
    editor = Rome(RomeConfig(layer=1), seed=3)
    first = editor.contexts(one)
    assert (first[0], len(first)) == ("{}", 21)
    assert editor.contexts(other) != first
    assert editor.contexts(one) == first == Rome(RomeConfig(layer=1), seed=3).contexts(one)
    assert Rome(RomeConfig(layer=1), seed=4).contexts(one) != first


@pytest.mark.parametrize("kind", CAUSAL)
def test_fine_tuning_equals_plain_training_of_the_whole_model(kind):
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
        wanted = logits[len(context) - 1 : -1].log_softmax(-1)
        loss = -torch.stack([wanted[i, token] for i, token in enumerate(target)]).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert edit.diagnostics["losses"] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(edit.weights[lm.mlp_weight_name(2)], weight.detach(), atol=1e-4, rtol=1e-3)


# --- second moment, controls, and the low-rank baseline ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rome_with_the_second_moment_turns_its_direction_and_keeps_its_identity(kind):
    lm = make_lm(kind)
    small = {"layer": 1, "steps": 4, "learning_rate": 0.1, "contexts": CONTEXTS}
    weighed = Rome(RomeConfig(mom2_adjustment=True, corpus_tokens=1024, corpus_length=32, **small))
    edit = weighed.edit(lm, [REQUEST])
    (wanted,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, weighed.config.objective)
    (name,) = edit.weights
    change = lm.as_stored(1, (edit.weights[name] - lm.parameter(name)).detach())
    moved = wanted.value - wanted.bare_value
    torch.testing.assert_close(change @ wanted.bare_key, moved, atol=1e-4, rtol=1e-3)
    # the rows lie along C^-1 k*, solved another way
    direction = torch.linalg.inv(weighed.moments.of(lm, 1).double()) @ wanted.key.double()
    row = change[int(moved.abs().argmax())].double()
    assert abs(float(torch.cosine_similarity(row, direction, dim=0))) == pytest.approx(1, abs=1e-5)
    plain = Rome(RomeConfig(**small)).edit(lm, [REQUEST])
    assert not torch.allclose(plain.weights[name], edit.weights[name], atol=1e-4)


def test_the_random_control_is_rank_one_as_large_as_rome_and_its_own_for_each_request(lm):
    config = RomeConfig(layer=1, steps=3, contexts=CONTEXTS)
    start = lm.parameter(NAME)
    rome, control, again, other = (
        (cls(config, seed).edit(lm, [request]).weights[NAME] - start).detach()
        for cls, seed, request in (
            (Rome, 0, REQUEST), (RandomUpdate, 0, REQUEST), (RandomUpdate, 0, REQUEST), (RandomUpdate, 0, CUE),
        )
    )  # fmt: skip
    assert float(control.norm()) == pytest.approx(float(rome.norm()), rel=1e-3)
    assert torch.linalg.matrix_rank(control, rtol=1e-3) == 1
    assert torch.equal(control, again)
    for one, two in ((control, rome), (control, other)):
        assert abs(float(torch.cosine_similarity(one.flatten(), two.flatten(), dim=0))) < 0.2
    assert not torch.equal(control, (RandomUpdate(config, 1).edit(lm, [REQUEST]).weights[NAME] - start).detach())


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_lora_is_what_its_adapters_compute(kind):
    """The merged weights answer as the adapted modules do: the adapters' product, scaled, in the right layout."""
    from peft import LoraConfig, get_peft_model

    lm = make_lm(kind)
    before = lm.weight_hash()
    torch.manual_seed(0)
    edit = Lora(LoraEditConfig(steps=3)).edit(lm, [TWO_TOKENS])
    assert lm.weight_hash() == before
    assert not any("lora" in name for name, _ in lm.model.named_modules())
    lesson = TargetBatch.of(lm, [TWO_TOKENS])
    twin = make_lm(kind)
    torch.manual_seed(0)
    adapted = get_peft_model(twin.model, LoraConfig(r=8, lora_alpha=32))
    optimiser = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(3):
        logits = adapted(**lesson.inputs).logits
        loss = torch.nn.functional.cross_entropy(logits[lesson.rows, lesson.columns], lesson.wanted)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert edit.diagnostics["losses"] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]
    with edit.applied(lm), torch.no_grad():
        torch.testing.assert_close(
            lm.model(**lesson.inputs).logits, adapted(**lesson.inputs).logits, atol=2e-3, rtol=1e-3
        )


def test_lora_names_modules_that_do_not_exist(lm):
    with pytest.raises(ValueError, match="nowhere"):
        Lora(LoraEditConfig(targets=("nowhere",))).edit(lm, [REQUEST])


def test_a_lesson_asks_for_every_target_token_and_never_for_bos():
    lm = make_lm("llama", bos=True)
    lesson = TargetBatch.of(lm, [REQUEST, TWO_TOKENS])
    targets = [lm.split(r.text, r.target_new)[1] for r in (REQUEST, TWO_TOKENS)]
    assert lesson.wanted.tolist() == [token for target in targets for token in target]
    assert lm.bos_id not in lesson.wanted
    assert lesson.rows.tolist() == [0] * len(targets[0]) + [1] * len(targets[1])
    ids = lesson.inputs["input_ids"]
    followers = [int(ids[row, column + 1]) for row, column in zip(lesson.rows[:-1], lesson.columns[:-1], strict=True)]
    assert followers[len(targets[0]) :] == lesson.wanted[len(targets[0]) : -1].tolist()


def test_a_masked_lesson_hides_the_whole_target():
    lm = make_lm("bert")
    lesson = TargetBatch.of(lm, [TWO_TOKENS])
    ids = lesson.inputs["input_ids"][0]
    assert (ids[lesson.columns] == lm.mask_id).all()
    ids[lesson.columns] = lesson.wanted
    assert lm.decode(ids.tolist()).strip() == f"{TWO_TOKENS.text} {TWO_TOKENS.target_new}."


@pytest.mark.parametrize("cls", [FineTuning, BoundedFineTuning, Lora])
def test_training_lowers_the_loss_on_a_masked_model(cls):
    lm = make_lm("bert")
    before = lm.weight_hash()
    edit = build_editor(cls, lm, {"steps": "6"})[0].edit(lm, [TWO_TOKENS])
    assert edit.diagnostics["losses"][-1] < edit.diagnostics["losses"][0]
    assert lm.weight_hash() == before


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_the_gradient_of_the_lesson_is_that_of_finite_differences(kind):
    lm = make_lm(kind)
    lm.model.double()
    lesson = TargetBatch.of(lm, [TWO_TOKENS])
    weight = lm.parameter(lm.mlp_weight_name(1)).requires_grad_()

    def loss():
        with lesson.selected(lm):
            logits = lm.model(**lesson.inputs).logits
        return torch.nn.functional.cross_entropy(logits, lesson.wanted)

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        for spot in ((0, 0), (3, 5), (20, 11)):
            values = []
            for step in (1e-3, -1e-3):
                weight[spot] += step
                values.append(float(loss()))
                weight[spot] -= step
            assert float(gradient[spot]) == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2, abs=1e-6)


def test_bounding_the_tokens_of_a_pass_changes_nothing(lm, monkeypatch):
    from knbench.editors.shared import value_vectors as module

    requests = [REQUEST, TWO_TOKENS, CUE]
    whole = value_vectors(lm, requests, 1, CONTEXTS, OBJECTIVE)
    monkeypatch.setattr(module, "POSITIONS", 5)
    for one, other in zip(whole, value_vectors(lm, requests, 1, CONTEXTS, OBJECTIVE), strict=True):
        torch.testing.assert_close(one.value, other.value, atol=1e-4, rtol=1e-4)
        assert one.losses == pytest.approx(other.losses, rel=1e-4, abs=1e-5)
