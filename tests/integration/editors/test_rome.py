"""ROME, R-ROME and the random control: the defining identities of their updates."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.models.hooks import capture
from knbench.editors.r_rome import RRome
from knbench.editors.random_update import RandomUpdate
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared.value_vectors import value_vectors

from tests.conftest import CAUSAL, make_lm

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
CUE = EditRequest("Susan saw {}", "this", "sketches", "sketch")
CONTEXTS = ("{}", "Because it was late. {}", "You and I. {}")
NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("kind", CAUSAL)
def test_rome_maps_the_bare_key_to_the_value(kind):
    """After the update, the layer maps the bare key to v* exactly, in both layouts of W."""
    lm = make_lm(kind)
    before = lm.weight_hash()
    editor = Rome(RomeConfig(layer=1, steps=5, learning_rate=0.1, contexts=CONTEXTS))
    edit = editor.edit(lm, [REQUEST])
    assert lm.weight_hash() == before
    (vector,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, editor.config.objective)
    tokens, span = lm.subject_span(REQUEST.prompt, REQUEST.subject)
    with edit.applied(lm), capture({"v": (lm.mlp(1), "output")}) as captured:
        lm.model(input_ids=torch.tensor([tokens.ids]))
    torch.testing.assert_close(captured["v"][0, span[-1]], vector.value, atol=1e-3, rtol=1e-3)
    (name,) = edit.weights
    change = edit.weights[name] - lm.parameter(name)
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 1


@pytest.mark.parametrize("kind", CAUSAL)
def test_r_rome_maps_the_mean_key_to_the_value(kind):
    lm = make_lm(kind)
    editor = RRome(RomeConfig(layer=1, steps=5, learning_rate=0.1, contexts=CONTEXTS))
    edit = editor.edit(lm, [REQUEST])
    (vector,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, editor.config.objective)
    with edit.applied(lm):
        mapped = lm.mlp_out(1)(vector.key[None, None])[0, 0]
    torch.testing.assert_close(mapped, vector.value, atol=1e-3, rtol=1e-3)
    one_context = RomeConfig(layer=1, steps=5, learning_rate=0.1, contexts=("{}",))
    rome, r_rome = (cls(one_context).edit(lm, [REQUEST]).weights for cls in (Rome, RRome))
    (name,) = rome
    torch.testing.assert_close(rome[name], r_rome[name], atol=1e-5, rtol=1e-4)  # the mean key is the bare key


def test_several_facts_are_written_one_after_the_other(lm):
    rome = Rome(RomeConfig(layer=1, steps=3, learning_rate=0.1, contexts=CONTEXTS))
    before = lm.weight_hash()
    joint = rome.edit(lm, [REQUEST, CUE])
    assert lm.weight_hash() == before
    first = rome.edit(lm, [REQUEST])
    with first.applied(lm):
        second = rome.edit(lm, [CUE])
    (name,) = joint.weights
    assert torch.equal(joint.weights[name], second.weights[name])
    assert not torch.equal(joint.weights[name], rome.edit(lm, [CUE]).weights[name])
    assert joint.diagnostics["requests"] == [first.diagnostics, second.diagnostics]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_second_moment_changes_the_direction_and_keeps_the_identity(kind):
    lm = make_lm(kind)
    settings = {"layer": 1, "steps": 4, "learning_rate": 0.1, "contexts": CONTEXTS}
    weighted = Rome(RomeConfig(mom2_adjustment=True, corpus_tokens=1024, corpus_length=32, **settings))
    edit = weighted.edit(lm, [REQUEST])
    (vector,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, weighted.config.objective)
    (name,) = edit.weights
    change = lm.as_stored(1, (edit.weights[name] - lm.parameter(name)).detach())
    delta = vector.value - vector.bare_value
    torch.testing.assert_close(change @ vector.bare_key, delta, atol=1e-4, rtol=1e-3)
    # The rows of the change are parallel to C^-1 k*, here computed with an explicit inverse.
    direction = torch.linalg.inv(weighted.moments.of(lm, 1).double()) @ vector.key.double()
    row = change[int(delta.abs().argmax())].double()
    assert abs(float(torch.cosine_similarity(row, direction, dim=0))) == pytest.approx(1, abs=1e-5)
    unweighted = Rome(RomeConfig(**settings)).edit(lm, [REQUEST])
    assert not torch.allclose(unweighted.weights[name], edit.weights[name], atol=1e-4)


def test_the_random_control_has_rank_one_and_the_norm_of_rome_and_depends_on_the_request(lm):
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
