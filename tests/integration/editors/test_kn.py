"""Knowledge neurons: planted neurons are found, and each operation changes their columns as specified."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest, Support
from knbench.benchmark.models.attribution import SharedNeurons
from knbench.benchmark.models.hooks import edit_output
from knbench.editors.kn import KnowledgeNeurons, KnowledgeNeuronsConfig

from tests.conftest import make_lm

SUPPORT = (Support("Canada is ruled from", "Ottawa"), Support("People in Canada look to", "Ottawa"))
REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa", SUPPORT)


def planted(kind):
    """Return a model in which neuron 7 of layer 2 raises "Ottawa" at every position and other MLPs have no effect."""
    lm = make_lm(kind)
    token = lm.token_queries(REQUEST.text, "Ottawa", ".")[0].token
    for layer in range(lm.n_layers):
        lm.mlp_out(layer).weight.data *= 1e-3
    embedding = lm.model.get_output_embeddings().weight[token].detach()
    weight = lm.as_stored(2, lm.mlp_out(2).weight.data)
    weight[:, 7] = 3 * embedding / embedding.norm()
    bias = getattr(lm.mlp_in(2), "bias", None)
    if bias is not None:
        bias.data[7] = 4.0  # always active
    return lm


@pytest.mark.parametrize("kind", ["gpt2", "neox", "gptj"])
def test_a_planted_neuron_is_found(kind):
    lm = planted(kind)
    found = KnowledgeNeurons(KnowledgeNeuronsConfig(steps=10, threshold=0.5)).find(lm, REQUEST)
    assert found.neurons == ((2, 7),)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_operations_change_only_the_columns_of_the_neurons(kind, monkeypatch):
    lm = make_lm(kind)
    before = lm.weight_hash()
    monkeypatch.setattr(KnowledgeNeurons, "find", lambda *_: SharedNeurons(((1, 4), (1, 9), (3, 0)), 0.7))

    def edited(**config):
        edit = KnowledgeNeurons(KnowledgeNeuronsConfig(**config)).edit(lm, [REQUEST])
        assert set(edit.weights) == {lm.mlp_weight_name(1), lm.mlp_weight_name(3)}
        tables = []
        for layer, columns in ((1, [4, 9]), (3, [0])):
            new = lm.as_stored(layer, edit.weights[lm.mlp_weight_name(layer)])
            old = lm.as_stored(layer, lm.parameter(lm.mlp_weight_name(layer)))
            others = [i for i in range(old.shape[1]) if i not in columns]
            assert torch.equal(new[:, others], old[:, others])
            tables.append((old[:, columns], new[:, columns]))
        return tables

    for old, new in edited(operation="suppress"):
        assert (new == 0).all()
        assert (old != 0).any()
    for old, new in edited(operation="enhance"):
        assert torch.equal(new, 2 * old)
    head = lm.model.get_output_embeddings().weight
    e_old, e_new = (
        torch.stack([head[q.token] for q in lm.token_queries(REQUEST.text, t, ".")]).mean(0) for t in ("Ottawa", "Rome")
    )
    for old, new in edited(erase=2.0, write=3.0):
        for before_, after in zip(old.T, new.T, strict=True):
            expected = before_ - 2 * before_.norm() / e_old.norm() * e_old + 3 * before_.norm() / e_new.norm() * e_new
            torch.testing.assert_close(after, expected)
    assert lm.weight_hash() == before


def test_suppress_equals_a_zero_activation():
    lm = planted("gpt2")
    editor = KnowledgeNeurons(KnowledgeNeuronsConfig(operation="suppress", steps=5, threshold=0.5))
    edit = editor.edit(lm, [REQUEST])
    assert edit.diagnostics["found"] == [{"neurons": [[2, 7]], "sharing": 0.05}]
    ids = torch.tensor([lm.encode(REQUEST.text).ids])

    def zero_neuron(state):
        state = state.clone()
        state[..., 7] = 0
        return state

    with edit_output(lm.mlp(2).act, zero_neuron):
        expected = lm.model(input_ids=ids).logits
    with edit.applied(lm):
        torch.testing.assert_close(lm.model(input_ids=ids).logits, expected)


def test_changes_of_several_requests_to_one_column_are_added(monkeypatch):
    lm = make_lm("llama")
    monkeypatch.setattr(KnowledgeNeurons, "find", lambda *_: SharedNeurons(((1, 4),), 0.7))
    editor = KnowledgeNeurons(KnowledgeNeuronsConfig())
    other = EditRequest("The capital of {} is", "Italy", "Ottawa", "Rome")
    name = lm.mlp_weight_name(1)
    start = lm.parameter(name)
    one, two, both = (editor.edit(lm, r).weights[name] - start for r in ([REQUEST], [other], [REQUEST, other]))
    torch.testing.assert_close(both, one + two, atol=1e-5, rtol=1e-4)


def test_a_search_without_neurons_raises_an_error(lm, monkeypatch):
    monkeypatch.setattr(KnowledgeNeurons, "find", lambda *_: SharedNeurons((), 0.05))
    with pytest.raises(ValueError, match="no neuron is attributed to 'Ottawa' after 'The capital of Canada is'"):
        KnowledgeNeurons(KnowledgeNeuronsConfig()).edit(lm, [REQUEST])


def test_the_search_reads_at_most_the_configured_prompts(lm, monkeypatch):
    from knbench.editors import kn

    read = []
    monkeypatch.setattr(kn, "attributions", lambda _, p, t, *__, **___: read.append((p, t)) or torch.ones(4, 48))
    KnowledgeNeurons(KnowledgeNeuronsConfig(prompts=2)).find(lm, REQUEST)
    assert read == [("The capital of Canada is", "Ottawa"), ("Canada is ruled from", "Ottawa")]
