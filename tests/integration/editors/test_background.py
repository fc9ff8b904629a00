"""Inputs and output gradients over text, compared with the gradients of the weights and with explicit sums."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.editing import Edit
from knbench.benchmark.models.untrained import untrained
from knbench.editors.shared.background import BackgroundGradients, text_gradients
from knbench.editors.shared.covariance import Corpus, text_rows

from tests.conftest import make_lm

ROWS = torch.tensor([[5, 9, 200, 31, 77], [6, 8, 100, 11, 12], [7, 8, 9, 10, 11]])
SMALL = Corpus(tokens=64, length=8)


def modules_of(lm):
    roles = ("gate", "up", "down", "attention_out") if lm.gated else ("up", "down", "attention_out")
    return {lm.weight_name(role, 1): lm.projection(role, 1) for role in roles}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gptj", "neox", "gemma3"])
def test_gradients_times_inputs_are_the_gradients_of_the_weights(kind):
    lm = make_lm(kind)
    modules = modules_of(lm)
    found = {name: torch.zeros(()) for name in modules}
    for batch in text_gradients(lm, ROWS, modules, batch_size=2):
        for name, (inputs, gradients) in batch.items():
            assert len(inputs) == len(gradients)
            found[name] = found[name] + gradients.T @ inputs
    for role_name, module in modules.items():
        module.weight.requires_grad_(True)
        logits = lm.model(input_ids=ROWS).logits
        loss = sum(-logits[i, j].log_softmax(-1)[ROWS[i, j + 1]] for i in range(3) for j in range(4))
        (expected,) = torch.autograd.grad(loss, [module.weight])
        module.weight.requires_grad_(False)
        if not isinstance(module, torch.nn.Linear):  # Conv1D
            expected = expected.T
        torch.testing.assert_close(found[role_name], expected, rtol=1e-3, atol=1e-4)


def test_the_moments_are_the_mean_outer_products():
    lm = untrained("llama")
    name = lm.weight_name("down", 1)
    moments = BackgroundGradients(SMALL, texts=9)
    assert moments.prepare(lm, [name], Reporter()) == {"corpus": "self", "texts": 9, "length": 8}
    rows = text_rows(lm, SMALL, 9, Reporter())
    assert rows.shape == (9, 8)
    inputs, gradients = [], []
    for row in rows:  # one text at a time
        ((x, g),) = (batch[name] for batch in text_gradients(lm, row[None], {name: lm.projection("down", 1)}))
        inputs += list(x.double())
        gradients += list(g.double())
    assert len(inputs) == 9 * 7 == moments.of(lm, name).tokens
    for found, vectors in ((moments.of(lm, name).inputs, inputs), (moments.of(lm, name).gradients, gradients)):
        expected = sum(torch.outer(v, v) for v in vectors) / len(vectors)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_unchanged_and_keeps_its_moments_when_edited():
    lm = untrained("gpt2")
    before = lm.weight_hash()
    name = lm.weight_name("up", 2)
    moments = BackgroundGradients(SMALL, texts=4)
    first = moments.of(lm, name)
    assert lm.weight_hash() == before
    assert not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())
    with Edit(weights={name: torch.zeros_like(lm.parameter(name))}).applied(lm):
        assert moments.of(lm, name) is first
    assert moments.of(untrained("gpt2", 1), name) is not first


def test_gradients_are_computed_where_gradients_are_disabled():
    lm = untrained("llama")
    with torch.no_grad():
        (batch,) = text_gradients(lm, ROWS, {"x": lm.mlp_out(0)})
    assert float(batch["x"][1].abs().max()) > 0


def test_a_masked_model_is_refused():
    lm = untrained("bert")
    with pytest.raises(
        KnbenchError, match="gradients over text need a causal model; 'untrained-bert' is a masked model"
    ):
        next(text_gradients(lm, ROWS, {"x": lm.mlp_out(0)}))
