"""Functions of the output head in ``Edit.outputs``: every pass of the harness sees them, and they are removed."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.benchmark.editing import Edit
from knbench.benchmark.models.attribution import Integral, attributions
from knbench.benchmark.models.hooks import select_positions
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing.drift import nll_per_token
from knbench.benchmark.probing.prober import make_prober

from tests.conftest import make_lm

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
PROBE = Probe("reliability", "completion", REQUEST.text, "Rome", "Ottawa", "unchanged")
PAIR = Probe("reliability", "minimal_pair", "", "The capital is Rome.", "The capital is Ottawa.", "new")
MODELS = {
    "tied, (d, m)": lambda: untrained("llama"),
    "tied, (m, d)": lambda: untrained("gpt2"),
    "untied": lambda: make_lm("mistral"),
    "masked": lambda: untrained("bert"),
}
IDS = torch.tensor([[5, 9, 200, 31, 77], [6, 8, 100, 11, 12]])


@pytest.fixture(params=MODELS)
def lm(request):
    return MODELS[request.param]()


def random_bias(lm):
    bias = torch.randn(lm.head.weight.shape[0], generator=torch.Generator().manual_seed(0))
    return bias, Edit(outputs={lm.module_name(lm.head): lambda logits: logits + bias})


def test_the_logits_of_full_and_selected_passes_are_changed_and_restored(lm):
    bias, edit = random_bias(lm)
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 3])
    before = lm.model(input_ids=IDS).logits
    with edit.applied(lm):
        whole = lm.model(input_ids=IDS).logits
        with select_positions(lm, rows, columns):
            some = lm.model(input_ids=IDS).logits
    torch.testing.assert_close(whole, before + bias)
    torch.testing.assert_close(some, (before + bias)[rows, columns], atol=1e-5, rtol=1e-4)
    assert torch.equal(lm.model(input_ids=IDS).logits, before)


def test_probes_are_measured_with_the_changed_logits(lm):
    """Compares with the changed logits of one plain forward pass per token."""
    bias, edit = random_bias(lm)
    prober = make_prober(lm, batch_size=4, new_tokens=3)
    expected = 0.0
    for query in lm.token_queries(REQUEST.text, "Rome", "."):
        logits = lm.model(input_ids=torch.tensor([query.ids])).logits[0, query.position] + bias
        expected += float(logits.log_softmax(-1)[query.token])
    with edit.applied(lm):
        completion, pair = prober.observe([PROBE, PAIR])
    assert completion.target.logprob == pytest.approx(expected, abs=1e-4)
    assert pair.target.logprob != pytest.approx(prober.observe([PAIR])[0].target.logprob, abs=1e-3)


def test_a_large_bias_decides_generated_text_and_attributions():
    for lm in (untrained("llama"), untrained("gpt2")):
        token = lm.split(REQUEST.text, "Rome")[1][0]
        bias = torch.zeros(lm.head.weight.shape[0])
        bias[token] = 1000.0
        prober = make_prober(lm, batch_size=4, new_tokens=3)
        with Edit(outputs={lm.module_name(lm.head): lambda logits, b=bias: logits + b}).applied(lm):
            (seen,) = prober.observe([PROBE])
            attributed = attributions(lm, REQUEST.text, "Rome", Integral(4))
        assert seen.top_id == token
        assert seen.generated == lm.decode([token] * len(lm.tokenizer.tokenize(seen.generated)))
        assert float(attributed.abs().max()) < 1e-6  # the probability is 1 whatever the neurons are


def test_perplexity_sees_the_bias():
    lm = untrained("llama")
    _, edit = random_bias(lm)
    texts = ["The capital of Canada is Ottawa.", "Rome is the capital of Italy."]
    before = nll_per_token(lm, texts)
    with edit.applied(lm):
        after = nll_per_token(lm, texts)
    assert min(abs(a - b) for a, b in zip(after, before, strict=True)) > 1e-2
    assert nll_per_token(lm, texts) == before


def test_the_name_of_a_foreign_module_is_refused():
    with pytest.raises(ValueError, match="Linear is not a module of 'untrained-llama'"):
        untrained("llama").module_name(torch.nn.Linear(2, 2))
