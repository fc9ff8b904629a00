"""Editors on the default model, against reference implementations and published numbers."""

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


@pytest.mark.long
def test_attributions_are_complete(real_lm):
    """With 200 steps, a layer's attributions sum within 1% to the change that setting its neurons to zero causes.

    Only layers that change the probability by more than 0.09 are checked. Where positive and negative parts of the
    integral cancel, 1% of the small change is below the error of the integral.
    """
    totals = attributions(real_lm, PROMPT, "Ottawa", Integral(steps=200)).sum(1)
    (query,) = real_lm.token_queries(PROMPT, "Ottawa", ".")
    ids = torch.tensor([query.ids])
    checked = 0
    for layer in range(real_lm.n_layers):
        site = (query.position, query.token, layer, "neurons")
        with torch.no_grad():
            original, neurons = probability_with(real_lm, ids, *site, None)
            ablated, _ = probability_with(real_lm, ids, *site, torch.zeros_like(neurons))
        if abs(float(original - ablated)) > 0.09:
            checked += 1
            assert float(totals[layer]) == pytest.approx(float(original - ablated), rel=0.01), layer
    assert checked > 15


def test_memit_rewrites_four_facts_at_once(real_lm):
    """The authors' implementation reaches target probabilities of .68 to .996 on this model."""
    before = real_lm.weight_hash()
    towns = (("Canada", "Rome", "Ottawa"), ("France", "Tokyo", "Paris"), ("Egypt", "Lima", "Cairo"))
    requests = [EditRequest("The capital of {} is", *town) for town in towns]
    requests.append(EditRequest("The mother tongue of {} is", "Danielle Darrieux", "English", "French"))
    editor, _ = build_editor(Memit, real_lm, {"layers": "4|5|6|7|8", "ridge": "1500"})
    edit = editor.edit(real_lm, requests)
    with edit.applied(real_lm):
        logprobs = [slow_answer(real_lm, r.text, r.target_new)["logprob"] for r in requests]
    assert min(logprobs) > torch.tensor(0.5).log()
    assert real_lm.weight_hash() == before
