"""Values that a model can and cannot produce, by hand-computed examples."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from knbench.benchmark.core.records import Answer
from knbench.benchmark.results.plausibility import _too_small_divergence, _two_events, impossible

from tests.factories import observation, probe, result

CAUSAL = result().model
MASKED = msgspec.structs.replace(CAUSAL, objective="masked")


def answer(*logprobs, ranks=None, argmax=None):
    count = len(logprobs)
    return Answer(
        logprob=sum(logprobs),
        token_logprobs=logprobs,
        ranks=tuple(ranks or [0] * count),
        argmax=tuple(argmax or [1] * count),
    )


def seen(target, rival, **more):
    return msgspec.structs.replace(
        observation(), target_answer=target, rival_answer=rival, **{"top_logprob": -0.5, **more}
    )


def test_a_masked_model_predicts_answers_of_other_lengths_with_other_masks():
    two, one = answer(-0.5, -1.0), answer(-0.3, argmax=[7])
    both = seen(two, one)
    assert "argmax/0 is not top_id" in impossible(CAUSAL, probe("reliability", None), both)
    assert impossible(MASKED, probe("reliability", None), both) is None
    same_length = seen(answer(-0.5), one)
    assert "argmax/0 is not top_id" in impossible(MASKED, probe("reliability", None), same_length)


@pytest.mark.parametrize(
    ("logprob", "rank", "fine"),
    [(math.log(0.5), 0, True), (math.log(0.33), 2, True), (math.log(0.35), 2, False), (math.log(0.5), 1, True)],
)
def test_a_token_of_rank_r_has_at_most_the_probability_1_in_r_plus_1(logprob, rank, fine):
    target = answer(-0.5, logprob, ranks=[0, rank])
    flaw = impossible(CAUSAL, probe("reliability", None), seen(target, answer(-3.0, ranks=[5])))
    assert (flaw is None) == fine, flaw


def test_answers_share_at_most_the_probability_1_unless_one_begins_the_other():
    target, rival = answer(math.log(0.6)), answer(math.log(0.6))
    both = seen(target, rival, top_logprob=math.log(0.6))
    assert "more than 1 together" in impossible(CAUSAL, probe("reliability", None), both)
    assert impossible(CAUSAL, probe("reliability", None, target="laughs", rival="laugh"), both) is None
    assert impossible(MASKED, probe("reliability", None), both) is None


def test_a_divergence_is_at_least_that_of_two_events():
    generator = np.random.default_rng(0)
    p, q = (generator.dirichlet(np.ones(50)) for _ in range(2))
    kl = float(np.sum(p * np.log(p / q)))
    mean = (p + q) / 2
    js = float(np.sum(p * np.log(p / mean)) + np.sum(q * np.log(q / mean))) / 2
    for token in range(50):
        assert _two_events(p[token], q[token]) <= kl + 1e-12
    token = int(np.argmax(np.abs(np.log(p / q)) * p))
    before = seen(answer(math.log(p[token]), ranks=[3]), None)
    question = probe("neighbourhood", None, expect="unchanged", rival="", before=before)
    true = seen(answer(math.log(q[token]), ranks=[3]), None, kl=kl, js=js)
    assert _too_small_divergence(CAUSAL, question, true) is None
    false = msgspec.structs.replace(true, kl=_two_events(p[token], q[token]) / 2)
    assert "kl is" in _too_small_divergence(CAUSAL, question, false)
    assert "js is" in _too_small_divergence(CAUSAL, question, msgspec.structs.replace(true, js=0.0))


def test_a_divergence_from_a_certain_prediction_is_bounded_within_the_resolution_of_float32():
    """Next to 0, a logarithm in float32 has steps of 1.2e-7: the probability of all other tokens is known to 3%."""
    before, certain = math.log(0.93757), -2.3841830625315197e-06
    old = observation(target=before, rival=-9.0, top_logprob=before, kl=None)
    question = probe("neighbourhood", None, before=old, expect="unchanged")
    after = observation(target=certain, rival=-15.0, top_logprob=certain, kl=0.5715425, js=0.0222)
    assert _too_small_divergence(CAUSAL, question, after) is None
    assert "kl is" in _too_small_divergence(CAUSAL, question, msgspec.structs.replace(after, kl=0.5))
