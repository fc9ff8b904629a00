"""In-context editing prepends the fact to prompts and changes no weight."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.benchmark.editing import NoConfig
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.in_context import InContext

from tests.references.slow_probing import slow_answer

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")


def test_the_fact_precedes_prompts_and_sentences(lm):
    before = lm.weight_hash()
    edit = InContext(NoConfig()).edit(lm, [REQUEST])
    assert edit.prefix == "The capital of Canada is Rome. "
    assert not edit.weights
    pair = Probe("symmetry", "minimal_pair", "", "Susan revealed herself.", "Mark revealed herself.", "new")
    completion = Probe("symmetry", "completion", "Rome is the capital of", "Canada", "Italy", "new")
    with edit.applied(lm):
        observed = make_prober(lm, new_tokens=0).observe([completion, pair])
        assert lm.weight_hash() == before
    expected = slow_answer(lm, f"{edit.prefix}Rome is the capital of", "Canada")
    assert observed[0].target.logprob == pytest.approx(expected["logprob"], abs=1e-3)
    expected = slow_answer(lm, edit.prefix.strip(), "Susan revealed herself.")
    assert observed[1].target.logprob == pytest.approx(expected["logprob"], abs=1e-3)
