"""Attributions equal a slow reference in every family and satisfy completeness. The search selects shared neurons."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.models.attribution import (
    ROWS,
    Integral,
    Search,
    SharedNeurons,
    _through_any,
    _through_linear,
    attributions,
    neurons_above,
    rows_per_pass,
    search,
)
from knbench.benchmark.models.language_model import LanguageModel

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_attribution import probability_with, slow_attributions

PROMPT = "The capital of Canada is"


@pytest.mark.parametrize("site", ["neurons", "pre-activation"])
@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_fast_attributions_equal_slow_ones(kind, site):
    lm = make_lm(kind)
    before = lm.weight_hash()
    integral = Integral(steps=4, site=site)
    for target in ("Rome", "Mexico City"):
        fast = attributions(lm, PROMPT, target, integral)
        slow = slow_attributions(lm, PROMPT, target, integral)
        assert fast.shape == (4, lm.mlp_out(0).weight.numel() // 32)
        assert float((fast - slow).abs().max()) < 1e-4 * float(slow.abs().max())
    assert lm.weight_hash() == before
    assert "forward" not in vars(lm.block(2))
    assert len(lm.token_queries(PROMPT, "Mexico City", ".")) > 1


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama", "bert"])
def test_attributions_of_a_layer_sum_to_the_effect_of_zeroing_it(kind):
    """Completeness: the integral of a gradient is the difference of its end points.

    Gemma 3 is excluded. Its norm after the MLP moves the whole change next to zero, below the first step.
    """
    lm = make_lm(kind)
    (query,) = lm.token_queries(PROMPT, "Rome", ".")
    found = attributions(lm, PROMPT, "Rome", Integral(steps=2000))
    ids = torch.tensor([query.ids])
    for layer in range(lm.n_layers):
        clean, neurons = probability_with(lm, ids, query.position, query.token, layer, "neurons", None)
        zeros = torch.zeros_like(neurons)
        ablated, _ = probability_with(lm, ids, query.position, query.token, layer, "neurons", zeros)
        assert float(found[layer].sum()) == pytest.approx(float(clean[0] - ablated[0]), rel=0.01, abs=1e-5)


def test_the_number_of_rows_in_a_pass_changes_nothing(lm):
    integral = Integral(steps=7)
    many, few = (attributions(lm, PROMPT, "Rome", integral, rows=rows) for rows in (2000, 10))
    torch.testing.assert_close(many, few, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_scaled_or_capped_logits_are_used(kind):
    """Some families scale or cap their logits after the head. For the others the head is applied in chunks."""
    lm = make_lm(kind)
    integral = Integral(steps=40)  # more rows than one call of the head processes
    assert lm.head_is_last
    parts = attributions(lm, PROMPT, "Rome", integral)
    lm.head_is_last = False
    torch.testing.assert_close(attributions(lm, PROMPT, "Rome", integral), parts, atol=1e-6, rtol=1e-4)
    capped = make_lm("llama")
    forward = capped.model.forward

    def cap(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = 3 * torch.tanh(out.logits / 3)
        return out

    capped.model.forward = cap
    lm = LanguageModel(capped.model, capped.tokenizer, capped.family, name="capped")
    assert not lm.head_is_last
    fast, slow = (f(lm, PROMPT, "Rome", Integral(steps=3)) for f in (attributions, slow_attributions))
    assert float((fast - slow).abs().max()) < 1e-4 * float(slow.abs().max())


@pytest.mark.parametrize(
    ("rule", "points"),
    [("right", [0.25, 0.5, 0.75, 1]), ("left", [0, 0.25, 0.5, 0.75]), ("inclusive", [0, 1 / 3, 2 / 3, 1])],
)
def test_rules_of_the_integral(rule, points):
    assert Integral(steps=4, rule=rule).points().tolist() == pytest.approx(points)


def test_the_prompt_prefix_is_used(lm):
    expected = attributions(lm, "You and I. " + PROMPT, "Rome", Integral(steps=2))
    lm.prompt_prefix = "You and I. "
    torch.testing.assert_close(attributions(lm, PROMPT, "Rome", Integral(steps=2)), expected)


# --- neuron selection, worked examples ---------------------------------------------------------------------------


def attribution_tables(*prompts: dict[tuple[int, int], float]) -> list[torch.Tensor]:
    tables = []
    for values in prompts:
        table = torch.zeros(3, 10)
        for (layer, index), value in values.items():
            table[layer, index] = value
        tables.append(table)
    return tables


def test_selected_neurons_reach_a_share_of_the_largest():
    (table,) = attribution_tables({(0, 1): 1.0, (1, 2): 0.2, (2, 3): 0.19, (2, 4): -5.0})
    assert neurons_above(table, 0.2) == {(0, 1), (1, 2)}
    assert neurons_above(torch.zeros(3, 10), 0.2) == set()
    assert neurons_above(-table[:, :4].abs(), 0.2) == set()


def test_search_stops_at_once_when_the_number_is_right():
    tables = attribution_tables({(0, 1): 1.0, (1, 2): 1.0}, {(0, 1): 1.0, (1, 2): 1.0}, {(0, 1): 1.0, (1, 3): 1.0})
    assert search(tables, Search(sharing=0.6)) == SharedNeurons(((0, 1), (1, 2)), 0.6)


def test_search_lowers_the_fraction_where_too_few_are_shared():
    # (1, 2) is in two of four prompts, so 0.7 selects only (0, 1); 0.5 is the first fraction that selects both.
    tables = attribution_tables({(0, 1): 1, (1, 2): 1}, {(0, 1): 1, (1, 2): 1}, {(0, 1): 1}, {(0, 1): 1})
    assert search(tables, Search(sharing=0.7)) == SharedNeurons(((0, 1), (1, 2)), 0.5)


def test_search_raises_the_fraction_where_too_many_are_shared():
    weak = {(2, i): 1.0 for i in range(6)}
    strong = {(0, 1): 1.0, (1, 2): 1.0}
    tables = attribution_tables(*[{**weak, **strong}] * 8, *[strong] * 2)  # six more in 8 of 10 prompts
    assert search(tables, Search(sharing=0.7)) == SharedNeurons(((0, 1), (1, 2)), 0.85)


def test_search_takes_the_larger_set_where_no_fraction_fits():
    tables = attribution_tables(*[{(2, i): 1.0 for i in range(7)}] * 3, {(0, 0): 1.0})  # seven up to 0.75, none above
    assert len(search(tables, Search(sharing=0.7)).neurons) == 7
    assert len(search(tables, Search(sharing=0.95)).neurons) == 7
    everywhere = attribution_tables(*[{(2, i): 1.0 for i in range(7)}] * 3)
    assert search(everywhere, Search()) == SharedNeurons(tuple((2, i) for i in range(7)), 1.0)
    assert search(attribution_tables({}), Search()).neurons == ()


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama"])  # GPT-J's head has a bias
def test_the_plain_heads_gradient_is_that_of_any_head(kind):
    head = make_lm(kind).head
    states = torch.randn(5, head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    plain, general = _through_linear(states.clone(), head, 7), _through_any(states.clone(), head, 7)
    for one, other in zip(plain, general, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert float(plain[1].abs().max()) > 1e-4


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_rows_of_a_pass_affect_rounding_only(kind):
    lm = make_lm(kind)
    one, many = (attributions(lm, PROMPT, "Rome", Integral(steps=7), rows=rows) for rows in (1, None))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-9)
    assert rows_per_pass(lm) > ROWS  # a row of a tiny model is small
