"""The editors on the real default model, where numbers are known from elsewhere or from a slower way."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.benchmark.models.attribution import Integral, attributions
from knbench.editors.memit import Memit

from tests.references.slow_attribution import probability_with, slow_attributions
from tests.references.slow_probing import slow_answer

pytestmark = pytest.mark.slow
PROMPT = "The capital of Canada is"


def test_attributions_equal_slow_ones(real_lm):
    integral = Integral(steps=2)
    fast, slow = (f(real_lm, PROMPT, "Ottawa", integral) for f in (attributions, slow_attributions))
    assert fast.shape == (30, 1536)
    assert float((fast - slow).abs().max()) < 1e-5 * float(slow.abs().max())


def test_attributions_are_complete(real_lm):
    """With 200 steps a layer's attributions sum, within 1%, to what silencing its neurons takes away.

    Asked of the layers that matter: where the way's ups and downs cancel out, 1% of next to nothing is asked.
    """
    found = attributions(real_lm, PROMPT, "Ottawa", Integral(steps=200)).sum(1)
    (question,) = real_lm.token_queries(PROMPT, "Ottawa", ".")
    ids = torch.tensor([question.ids])
    asked = 0
    for layer in range(real_lm.n_layers):
        place = (question.position, question.token, layer, "neurons")
        with torch.no_grad():
            whole, neurons = probability_with(real_lm, ids, *place, None)
            silent, _ = probability_with(real_lm, ids, *place, torch.zeros_like(neurons))
        if abs(float(whole - silent)) > 0.09:
            asked += 1
            assert float(found[layer]) == pytest.approx(float(whole - silent), rel=0.01), layer
    assert asked > 15


def test_memit_rewrites_four_facts_at_once(real_lm):
    """As measured with the method's own implementation on this model: target probabilities of .68 to .996."""
    before = real_lm.weight_hash()
    towns = (("Canada", "Rome", "Ottawa"), ("France", "Tokyo", "Paris"), ("Egypt", "Lima", "Cairo"))
    requests = [EditRequest("The capital of {} is", *town) for town in towns]
    requests.append(EditRequest("The mother tongue of {} is", "Danielle Darrieux", "English", "French"))
    editor, _ = build_editor(Memit, real_lm, {"layers": "4|5|6|7|8", "ridge": "1500"})
    edit = editor.edit(real_lm, requests)
    with edit.applied(real_lm):
        found = [slow_answer(real_lm, r.text, r.target_new)["logprob"] for r in requests]
    assert min(found) > torch.tensor(0.5).log()
    assert real_lm.weight_hash() == before
