"""PMET: its relation to MEMIT, the bounds of its values, and the factor of the NLL."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.benchmark.models.untrained import untrained
from knbench.editors.memit import Memit
from knbench.editors.pmet import Pmet
from knbench.editors.shared import two_site_values
from knbench.editors.shared.two_site_values import two_site_value
from knbench.editors.shared.value_vectors import ValueObjective, value_vectors

from tests.conftest import make_lm

REQUESTS = (
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
)
CONTEXTS = ("{}", "He said. {}")
OBJECTIVE = ValueObjective(steps=6, learning_rate=0.5, weight_decay=0.5, clamp=0.75, kl_factor=0.0625, stop_below=0.01)
KINDS = ("gpt2", "llama", "gptj", "gemma3")
ARGS = {"layers": "1|2", "contexts": "{}|He said. {}", "corpus_tokens": "2048", "corpus_length": "32"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_attention_the_value_is_that_of_the_mlp(kind):
    """The second site is independent code, and equals the values of ROME, which are optimised with a cache."""
    lm = make_lm(kind)
    expected = value_vectors(lm, REQUESTS, 2, CONTEXTS, OBJECTIVE, site="mlp")
    for request, vector in zip(REQUESTS, expected, strict=True):
        found = two_site_value(lm, request, 2, CONTEXTS, OBJECTIVE, attention=False)
        assert found.losses == pytest.approx(vector.losses, rel=1e-3)
        torch.testing.assert_close(found.bare_mlp, vector.bare_value, atol=1e-4, rtol=1e-4)
        assert float((found.mlp - vector.value).norm() / vector.value.norm()) < 5e-3
        assert torch.equal(found.attention, found.bare_attention)


@pytest.mark.parametrize("kind", KINDS)
def test_both_norms_are_bounded_and_both_sites_lower_the_loss(kind):
    lm = make_lm(kind)
    before = lm.weight_hash()
    objective = ValueObjective(**{**vars(OBJECTIVE), "clamp": 0.1, "steps": 10})
    for request in REQUESTS:
        found = two_site_value(lm, request, 2, CONTEXTS, objective)
        for value, bare in ((found.mlp, found.bare_mlp), (found.attention, found.bare_attention)):
            share = float((value - bare).norm() / bare.norm())
            assert 0 < share <= 0.1 * (1 + 1e-5)
        assert found.losses[-1] < found.losses[0]
    assert lm.weight_hash() == before


def test_the_gradient_of_both_sites_equals_finite_differences():
    lm = make_lm("llama")
    rows = two_site_values._Rows(lm, REQUESTS[1], CONTEXTS, 2)
    lm.model.double()
    rows.state = rows.state.double()
    deltas = [torch.full_like(value, 0.1).double().requires_grad_() for value in rows.outputs]

    def loss():
        return torch.nn.functional.cross_entropy(rows.logits(deltas)[:-1].double(), rows.targets)

    gradients = torch.autograd.grad(loss(), deltas)
    for delta, gradient in zip(deltas, gradients, strict=True):
        for index in (0, 7):
            values = []
            for step in (1e-2, -1e-2):
                with torch.no_grad():
                    delta[index] += step
                    values.append(float(loss()))
                    delta[index] -= step
            assert float(gradient[index]) == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-4)


def test_the_factor_falls_only_after_all_targets_are_the_most_probable(monkeypatch):
    lm = untrained("llama")
    reached = []

    class Rows(two_site_values._Rows):
        def logits(self, deltas):
            logits = super().logits(deltas)
            reached.append(bool((logits[:-1].argmax(-1) == self.targets).all()))
            return logits

    monkeypatch.setattr(two_site_values, "_Rows", Rows)
    objective = ValueObjective(40, learning_rate=0.5, weight_decay=0.0, clamp=4.0, kl_factor=0.0, stop_below=-1.0)
    monkeypatch.setattr(two_site_values, "REACHED_DIVERGENCE", -1.0)
    found = two_site_value(lm, EditRequest("Susan saw {}", "this", "sketches", ""), 2, ("{}",), objective)
    reached = reached[1:]  # the first pass gives the reference of the KL term
    assert True in reached
    first = reached.index(True)
    assert found.losses[first + 1] < 0.2 * found.losses[first]
    assert found.losses[first] > 0.2 * found.losses[first - 1]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_one_layer_without_regularisation_maps_the_key_to_the_value(kind):
    """As lambda vanishes, the MLP output of the edited model is z_m."""
    lm = make_lm(kind)
    editor, _ = build_editor(Pmet, lm, {**ARGS, "layers": "2", "ridge": "1e-8", "contexts": "{}"})
    edit = editor.edit(lm, REQUESTS[:1])
    value = two_site_value(lm, REQUESTS[0], 2, ("{}",), editor.config.objective)
    ids, span = lm.subject_span(REQUESTS[0].prompt, REQUESTS[0].subject, REQUESTS[0].target_new)
    found = []
    handle = lm.mlp(2).register_forward_hook(lambda _m, _i, output: found.append(output[0, span[-1]]))
    with torch.no_grad(), edit.applied(lm):
        lm.model(input_ids=torch.tensor([ids.ids]))
    handle.remove()
    assert float((found[0] - value.mlp).norm() / value.mlp.norm()) < 1e-3


def test_the_layers_share_the_residual_by_roots():
    """With two layers, the first takes 1 / sqrt(2) of the residual, and 1 / 2 without ``spread``."""
    lm = make_lm("llama")
    name = lm.mlp_weight_name(1)
    changes = []
    for spread in ("true", "false"):
        editor, _ = build_editor(Pmet, lm, {**ARGS, "steps": "3", "ridge": "1", "spread": spread})
        changes.append(editor.edit(lm, REQUESTS).weights[name] - lm.parameter(name).detach())
    torch.testing.assert_close(changes[0], changes[1] * 2**0.5, atol=1e-5, rtol=1e-3)


def test_one_layer_at_the_site_of_the_mlp_is_memit():
    """With one layer and no delta_a, the residuals of the MLP and of the block are equal."""
    lm = make_lm("llama")
    common = {**ARGS, "layers": "2", "steps": "2", "learning_rate": "0.1", "kl_factor": "0", "weight_decay": "0",
              "clamp": "100", "ridge": "1"}  # fmt: skip
    pmet = build_editor(Pmet, lm, {**common, "attention": "false"})[0].edit(lm, REQUESTS)
    memit = build_editor(Memit, lm, common)[0].edit(lm, REQUESTS)
    name = lm.mlp_weight_name(2)
    torch.testing.assert_close(pmet.weights[name], memit.weights[name], atol=1e-4, rtol=1e-3)
