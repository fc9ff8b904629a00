"""BIRD: its term, its relation to ROME, and the words of relations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.records import RequestRecord, to_json
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.editors.bird import Bird
from knbench.editors.rome import Rome
from knbench.editors.shared.relation_term import RelationTerm

from tests.conftest import make_lm

REQUESTS = (
    EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa"),
    EditRequest("{} works in the field of", "Danielle Darrieux", "Mexico City", "physics"),
)
CONTEXTS = ("{}", "He said. {}")
RELATION = ("has the capital", "is the capital of")
ARGS = {"layer": "1", "steps": "6", "contexts": "{}|He said. {}"}


def term_of(lm, request=REQUESTS[0], relation=RELATION, beta=1.0):
    return RelationTerm(lm, request, relation, 1, CONTEXTS, beta)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_without_the_term_it_is_rome_bit_for_bit(kind):
    lm = make_lm(kind)
    before = lm.weight_hash()
    name = lm.mlp_weight_name(1)
    expected = build_editor(Rome, lm, ARGS)[0].edit_each(lm, REQUESTS)
    found = build_editor(Bird, lm, {**ARGS, "alpha": "0"})[0].edit_each(lm, REQUESTS)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.weights[name], b.weights[name])
    changed = build_editor(Bird, lm, {**ARGS, "alpha": "0.1"})[0].edit(lm, REQUESTS[:1])
    assert not torch.equal(changed.weights[name], expected[0].weights[name])
    assert lm.weight_hash() == before


def test_the_vectors_are_means_of_the_last_hidden_states():
    lm = make_lm("llama")
    term = term_of(lm)
    for context, found in zip(CONTEXTS, term.forward, strict=True):
        tokens, span = lm.subject_span(context, RELATION[0])
        with torch.no_grad():
            states = lm.model.model(input_ids=torch.tensor([tokens.ids])).last_hidden_state[0]  # after the norm
        torch.testing.assert_close(found, states[span[0] : span[-1] + 1].mean(0), atol=1e-5, rtol=1e-4)


def test_equal_objects_cancel():
    lm = make_lm("llama")
    term = term_of(lm)
    term.old = term.new
    assert float(term(torch.randn(32))) == 0


def test_the_gradient_equals_finite_differences():
    lm = make_lm("llama")
    lm.model.double()
    term = term_of(lm)
    delta = (0.1 * torch.randn(32, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    (gradient,) = torch.autograd.grad(term(delta), delta)
    assert float(gradient.norm()) > 0
    with torch.no_grad():
        for index in (0, 5, 31):
            values = []
            for step in (1e-2, -1e-2):
                moved = delta.clone()
                moved[index] += step
                values.append(float(term(moved)))
            assert float(gradient[index]) == pytest.approx((values[0] - values[1]) / 2e-2, rel=3e-2, abs=1e-4)


def test_the_positive_part_is_the_same_for_the_exchanged_relation():
    """s and o*, r and r' exchanged, without the old object."""
    lm = make_lm("llama")
    first = term_of(lm, beta=0.0)
    asked = replace(REQUESTS[0], subject=REQUESTS[0].target_new, target_new=REQUESTS[0].subject)
    second = term_of(lm, asked, RELATION[::-1], beta=0.0)
    zero = torch.zeros(32)
    assert float(first(zero)) == pytest.approx(float(second(zero)), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_term_is_bounded_below_for_beta_up_to_one(beta):
    lm = make_lm("llama")
    term = term_of(lm, beta=beta)
    bound = -2 * beta * float((term.old - term.new).norm(dim=-1).sum())
    for scale in (0, 1, 10, 1000):
        for seed in range(3):
            delta = scale * torch.randn(32, generator=torch.Generator().manual_seed(seed))
            assert float(term(delta)) >= bound - 1e-3


def test_the_optimisation_lowers_the_term():
    lm = make_lm("llama")
    terms = []
    for alpha in ("0", "1"):
        editor, _ = build_editor(Bird, lm, {**ARGS, "alpha": alpha, "steps": "12", "kl_factor": "0"})
        edit = editor.edit(lm, REQUESTS[:1])
        term = term_of(lm)
        with edit.applied(lm):
            vectors = term_of(lm).subject_vectors(torch.zeros(32))
        term.subject_vectors = lambda _, vectors=vectors: vectors
        terms.append(float(term(torch.zeros(32))))
    assert terms[1] < terms[0]


def test_relations_have_the_words_of_the_templates():
    lm = make_lm("llama")
    editor, _ = build_editor(Bird, lm, ARGS)
    found = {name: editor.relation(task.cases[0].request) for name, task in registry.tasks().items()}
    assert found["capital"] == ("The capital of is", "is the capital of")
    assert found["capital-inverse"] == ("is the capital of", "The capital of is")
    assert found["mother-tongue"] == ("The mother tongue of is", "")
    assert found["det-noun-agreement"] == ("", "")
    assert found["npi-licensing"] == ("have", "")
    unknown = EditRequest("{} likes", "Susan", "books", "sketches")
    assert editor.relation(unknown) == ("likes", "")
    own, _ = build_editor(Bird, lm, {**ARGS, "relation": "likes|is liked by"})
    assert own.relation(registry.tasks()["capital"].cases[0].request) == ("likes", "is liked by")
    with pytest.raises(ValueError, match="needs a true answer"):
        own.edit(lm, [replace(unknown, target_true="")])


def test_a_relation_without_words_is_the_zero_vector():
    lm = make_lm("llama")
    term = term_of(lm, relation=("", ""), beta=0.0)
    delta = torch.zeros(32)
    expected = 2 * (term.subject_vectors(delta) - term.new).norm(dim=-1).sum()
    assert float(term(delta)) == pytest.approx(float(expected), rel=1e-6)


def test_a_relation_is_in_no_record_and_no_content_hash():
    case = registry.tasks()["capital"].cases[0]
    assert "relation" not in case.to_json()["request"]
    assert "relation" not in to_json(RequestRecord.of(case.request))
