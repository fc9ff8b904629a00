"""Probing of causal models, against one forward pass per token."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.probing.base import Reference
from knbench.benchmark.probing.divergence import divergence
from knbench.benchmark.probing.prober import make_prober
from scipy import stats

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_probing import slow_answer, slow_greedy

PROBES = [
    Probe("reliability", "completion", "The capital of Canada is", "Rome", "Ottawa", "new"),
    Probe("paraphrase", "completion", "Canada is", "Mexico City", "Mexico", "new"),  # one answer begins with the other
    Probe("symmetry", "completion", "Rome is the capital of", "Canada", "Italy", "new"),
    Probe("neighbourhood", "completion", "The capital of France is", "Paris", "Rome", "unchanged"),
    Probe("neighbourhood", "completion", "Danielle Darrieux", "is a famous actress", "bakes", "unchanged"),
    Probe("symmetry", "minimal_pair", "", "Susan revealed herself.", "Mark revealed herself.", "new"),
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_batched_probing_equals_one_pass_per_token(kind, bos):
    lm = make_lm(kind, bos=bos)
    prober = make_prober(lm, batch_size=3, new_tokens=4)
    for probe, observation in zip(PROBES, prober.observe(PROBES), strict=True):
        for side in ("target", "rival"):
            slow = slow_answer(lm, probe.prompt, getattr(probe, side))
            assert getattr(observation, side).token_logprobs == pytest.approx(slow["token_logprobs"], abs=2e-4)
            assert getattr(observation, side).logprob == pytest.approx(slow["logprob"], abs=1e-3)
            assert list(getattr(observation, side).ranks) == slow["ranks"]
            assert list(getattr(observation, side).argmax) == slow["argmax"]
        if probe.kind == "completion":
            assert observation.top_id == observation.target.argmax[0]
            # An answer of more than three tokens gets a continuation of more than four.
            length = max(4, 1 + len(lm.split(probe.prompt, probe.target)[1]))
            assert observation.generated == slow_greedy(lm, probe, length)


def numbers(observations):
    return [x for o in observations for side in ("target", "rival") for x in getattr(o, side).token_logprobs]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_observations_do_not_depend_on_batch_size_and_order(lm, size):
    reference = make_prober(lm, batch_size=4).observe(PROBES)
    other = make_prober(lm, batch_size=size).observe(PROBES[::-1])[::-1]
    assert numbers(other) == pytest.approx(numbers(reference), abs=1e-4)
    assert [o.generated for o in other] == [o.generated for o in reference]


LM = make_lm("llama")
ALONE = [make_prober(LM, batch_size=1, new_tokens=2).observe([probe])[0] for probe in PROBES]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(PROBES))), st.integers(1, len(PROBES)), st.integers(1, 9))
def test_observations_do_not_depend_on_other_probes_of_the_batch(order, count, size):
    chosen = order[:count]
    observations = make_prober(LM, batch_size=size, new_tokens=2).observe([PROBES[i] for i in chosen])
    assert numbers(observations) == pytest.approx(numbers([ALONE[i] for i in chosen]), abs=1e-4)
    assert [o.generated for o in observations] == [ALONE[i].generated for i in chosen]


def test_kl_is_computed_over_the_whole_distribution(lm):
    prober, reference = make_prober(lm), Reference()
    prober.observe(PROBES, save_to=reference)
    same = prober.observe(PROBES, compare_to=reference)
    assert [(o.kl is not None) for o in same] == [p.expect == "unchanged" for p in PROBES]
    assert [o.kl for o in same if o.kl is not None] == pytest.approx([0, 0], abs=1e-9)
    context = torch.tensor([lm.split(PROBES[3].prompt, "Paris")[0]])
    before = lm.model(input_ids=context).logits[0, -1].double().softmax(-1)
    weight = lm.parameter(lm.mlp_weight_name(1))
    weight.data = weight.data * 1.5
    after = lm.model(input_ids=context).logits[0, -1].double().softmax(-1)
    expected = (before * (before / after).log()).sum().item()
    assert expected > 0.01
    assert prober.observe(PROBES, compare_to=reference)[3].kl == pytest.approx(expected, rel=1e-3)


def test_probabilities_of_different_first_tokens_sum_to_at_most_one(lm):
    words = [lm.tokenizer.decode([i]) for i in range(3, len(lm.tokenizer))]
    spaced = [w for w in words if w.startswith(" ") and w[1:].isalpha()]
    probes = [Probe("x", "completion", "Rome is", w[1:], "Rome", "new") for w in spaced]
    observations = make_prober(lm, new_tokens=0).observe(probes)
    total = sum(math.exp(o.target.token_logprobs[0]) for o in observations)
    assert 0 < total <= 1 + 1e-6


def test_prompt_prefix_affects_the_scores(lm):
    without_prefix = numbers(make_prober(lm).observe(PROBES[:1]))
    lm.prompt_prefix = "The capital of Canada is Rome. "
    assert numbers(make_prober(lm).observe(PROBES[:1])) != without_prefix


def test_nan_weights_raise(lm):
    lm.parameter(lm.mlp_weight_name(0)).data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not numbers"):
        make_prober(lm).observe(PROBES)


def test_divergences_follow_their_definitions():
    before, now = torch.tensor([0.25, 0.75, 0.0]).log(), torch.tensor([0.5, 0.5, 0.0]).log()
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    mixture = [0.375, 0.625]
    half = [sum(p * math.log(p / m) for p, m in zip(d, mixture, strict=True)) for d in ([0.25, 0.75], [0.5, 0.5])]
    assert divergence(before, now) == pytest.approx((expected, sum(half) / 2))
    assert divergence(before, before) == (0.0, 0.0)


def test_rounding_in_float32_does_not_look_like_a_divergence():
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 50_000)
    before, now = logits.log_softmax(-1), (logits + 30).log_softmax(-1)  # the same distribution, rounded elsewhere
    assert float((before - now).abs().max()) > 1e-6
    assert all(divergence(a, b)[0] < 1e-10 for a, b in zip(before, now, strict=True))
    exact = (logits.double() * 1.1).log_softmax(-1)
    expected = (before.double().exp() * (logits.double().log_softmax(-1) - exact)).sum(-1)
    found = [divergence(a, b)[0] for a, b in zip(before, exact.float(), strict=True)]
    assert found == pytest.approx(expected.tolist(), abs=1e-7)


def test_divergence_that_is_infinite_raises():
    certain, open_ = torch.tensor([1.0, 0.0, 0.0]).log(), torch.tensor([0.5, 0.5, 0.0]).log()
    assert divergence(certain, open_)[0] == pytest.approx(math.log(2))
    with pytest.raises(FloatingPointError, match="not a number"):
        divergence(open_, certain)


def test_sampled_text_does_not_depend_on_other_prompts_of_the_batch(lm):
    prompts = ["Rome is", "The capital of Canada", "Susan", "You and I saw this", "Italy"]
    alone = [make_prober(lm, free_tokens=8)._write([prompt])[0] for prompt in prompts]
    assert make_prober(lm, free_tokens=8, batch_size=3)._write(prompts[::-1])[::-1] == alone
    assert len(set(alone)) == len(alone)


def test_sampled_tokens_follow_the_distribution_of_the_five_most_probable_tokens(lm, monkeypatch):
    """A chi-squared test compares the frequencies of many draws with the renormalised probabilities."""
    seeds = itertools.count()
    monkeypatch.setattr("knbench.benchmark.probing.causal.derived_seed", lambda *_: next(seeds))
    prober = make_prober(lm, free_tokens=1, new_tokens=1)
    drawn = Counter(prober._write(["Rome is"])[0] for _ in range(300))
    logits = lm.model(input_ids=torch.tensor([lm.encode("Rome is").ids])).logits[0, -1]
    top = logits.topk(5)
    expected = {
        lm.decode([i]): 300 * p
        for i, p in zip(top.indices.tolist(), top.values.double().softmax(-1).tolist(), strict=True)
    }
    assert set(drawn) <= set(expected)
    assert stats.chisquare([drawn[t] for t in expected], list(expected.values())).pvalue > 1e-3
