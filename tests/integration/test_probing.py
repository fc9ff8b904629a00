from __future__ import annotations

import math

import pytest
import torch
from knbench.benchmark.probing import Prober, Reference
from knbench.benchmark.types import Probe

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
            assert seen["generated"] == slow_greedy(lm, probe, 4)


def numbers(observations):
    return [x for o in observations for side in ("target", "rival") for x in o[side]["token_logprobs"]]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_batch_size_and_order_do_not_matter(lm, size):
    reference = Prober(lm, batch_size=4).observe(PROBES)
    other = Prober(lm, batch_size=size).observe(PROBES[::-1])[::-1]
    assert numbers(other) == pytest.approx(numbers(reference), abs=1e-4)
    assert [o.get("generated") for o in other] == [o.get("generated") for o in reference]


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
