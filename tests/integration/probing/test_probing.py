from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.probing.causal import Prober, Reference, kl_divergence
from scipy import stats

from tests.conftest import CAUSAL, make_lm
from tests.references.slow_probing import slow_answer, slow_greedy

PROBES = [
    Probe("reliability", "completion", "The capital of Canada is", "Rome", "Ottawa", "new"),
    Probe("paraphrase", "completion", "Canada is", "Mexico City", "Mexico", "new"),  # one answer begins the other
    Probe("symmetry", "completion", "Rome is the capital of", "Canada", "Italy", "new"),
    Probe("neighbourhood", "completion", "The capital of France is", "Paris", "Rome", "unchanged"),
    Probe("neighbourhood", "completion", "Danielle Darrieux", "is a famous actress", "bakes", "unchanged"),
    Probe("symmetry", "minimal_pair", "", "Susan revealed herself.", "Mark revealed herself.", "new"),
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_batched_probing_equals_one_pass_per_token(kind, bos):
    lm = make_lm(kind, bos=bos)
    for probe, seen in zip(PROBES, Prober(lm, batch_size=3, new_tokens=4).observe(PROBES), strict=True):
        for side in ("target", "rival"):
            slow = slow_answer(lm, probe.prompt, getattr(probe, side))
            assert seen[side]["token_logprobs"] == pytest.approx(slow["token_logprobs"], abs=2e-4)
            assert seen[side]["logprob"] == pytest.approx(slow["logprob"], abs=1e-3)
            assert (seen[side]["ranks"], seen[side]["argmax"]) == (slow["ranks"], slow["argmax"])
        if probe.kind == "completion":
            assert seen["top_id"] == seen["target"]["argmax"][0]
            # An answer of more than three tokens gets a longer continuation: it could not be said in four.
            longer = 1 + len(lm.split(probe.prompt, probe.target)[1])
            assert seen["generated"] == slow_greedy(lm, probe, max(4, longer))


def numbers(observations):
    return [x for o in observations for side in ("target", "rival") for x in o[side]["token_logprobs"]]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_batch_size_and_order_do_not_matter(lm, size):
    reference = Prober(lm, batch_size=4).observe(PROBES)
    other = Prober(lm, batch_size=size).observe(PROBES[::-1])[::-1]
    assert numbers(other) == pytest.approx(numbers(reference), abs=1e-4)
    assert [o.get("generated") for o in other] == [o.get("generated") for o in reference]


LM = make_lm("llama")
ALONE = [Prober(LM, batch_size=1, new_tokens=2).observe([probe])[0] for probe in PROBES]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(PROBES))), st.integers(1, len(PROBES)), st.integers(1, 9))
def test_what_shares_a_batch_does_not_matter(order, count, size):
    chosen = order[:count]
    seen = Prober(LM, batch_size=size, new_tokens=2).observe([PROBES[i] for i in chosen])
    assert numbers(seen) == pytest.approx(numbers([ALONE[i] for i in chosen]), abs=1e-4)
    assert [o.get("generated") for o in seen] == [ALONE[i].get("generated") for i in chosen]


def test_kl_is_that_of_the_whole_distribution_before_and_after(lm):
    prober, reference = Prober(lm), Reference()
    prober.observe(PROBES, remember=reference)
    same = prober.observe(PROBES, against=reference)
    assert [("kl" in o) for o in same] == [p.expect == "unchanged" for p in PROBES]
    assert [o["kl"] for o in same if "kl" in o] == pytest.approx([0, 0], abs=1e-9)
    context = torch.tensor([lm.split(PROBES[3].prompt, "Paris")[0]])
    before = lm.model(input_ids=context).logits[0, -1].double().softmax(-1)
    weight = lm.parameter(lm.mlp_weight_name(1))
    weight.data = weight.data * 1.5
    after = lm.model(input_ids=context).logits[0, -1].double().softmax(-1)
    wanted = (before * (before / after).log()).sum().item()
    assert wanted > 0.01
    assert prober.observe(PROBES, against=reference)[3]["kl"] == pytest.approx(wanted, rel=1e-3)


def test_probabilities_of_all_continuations_sum_to_one(lm):
    words = [lm.tokenizer.decode([i]) for i in range(3, len(lm.tokenizer))]
    spaced = [w for w in words if w.startswith(" ") and w[1:].isalpha()]
    probes = [Probe("x", "completion", "Rome is", w[1:], "Rome", "new") for w in spaced]
    seen = Prober(lm, new_tokens=0).observe(probes)
    total = sum(math.exp(o["target"]["token_logprobs"][0]) for o in seen)
    assert 0 < total <= 1 + 1e-6


def test_text_before_the_prompt_is_read(lm):
    plain = numbers(Prober(lm).observe(PROBES[:1]))
    lm.prompt_prefix = "The capital of Canada is Rome. "
    assert numbers(Prober(lm).observe(PROBES[:1])) != plain


def test_a_model_gone_wrong_is_no_number(lm):
    lm.parameter(lm.mlp_weight_name(0)).data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not numbers"):
        Prober(lm).observe(PROBES)


def test_divergence_of_ruled_out_tokens_is_no_silent_zero():
    before, now = torch.tensor([0.25, 0.75, 0.0]).log(), torch.tensor([0.5, 0.5, 0.0]).log()
    wanted = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert kl_divergence(before, now) == pytest.approx(wanted)
    with pytest.raises(FloatingPointError, match="not a number"):
        kl_divergence(now, torch.tensor([1.0, 0.0, 0.0]).log())


def test_written_text_does_not_depend_on_what_shares_its_batch(lm):
    prompts = ["Rome is", "The capital of Canada", "Susan", "You and I saw this", "Italy"]
    alone = [Prober(lm, free_tokens=8)._write([prompt])[0] for prompt in prompts]
    assert Prober(lm, free_tokens=8, batch_size=3)._write(prompts[::-1])[::-1] == alone
    assert len(set(alone)) == len(alone)


def test_written_text_is_drawn_from_the_five_most_probable_tokens(lm, monkeypatch):
    """Over many draws, each as often as its probability among the five says."""
    luck = itertools.count()
    monkeypatch.setattr("knbench.benchmark.probing.causal.derived_seed", lambda *_: next(luck))
    prober = Prober(lm, free_tokens=1, new_tokens=1)
    drawn = Counter(prober._write(["Rome is"])[0] for _ in range(300))
    logits = lm.model(input_ids=torch.tensor([lm.encode("Rome is").ids])).logits[0, -1]
    top = logits.topk(5)
    expected = {
        lm.decode([i]): 300 * p
        for i, p in zip(top.indices.tolist(), top.values.double().softmax(-1).tolist(), strict=True)
    }
    assert set(drawn) <= set(expected)
    assert stats.chisquare([drawn[t] for t in expected], list(expected.values())).pvalue > 1e-3
