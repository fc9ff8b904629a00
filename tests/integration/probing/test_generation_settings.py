"""Continuations do not depend on the settings of generation that come with a model."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.probing.prober import make_prober

from tests.conftest import make_lm
from tests.references.slow_probing import slow_greedy

PROBES = [
    Probe("reliability", "completion", "The capital of Canada is", "Ottawa", "Rome", "new"),
    Probe("neighbourhood", "completion", "Danielle Darrieux", "is", "bakes", "unchanged"),
]
LENGTH = 12


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 5.0},
        {"suppress_tokens": list(range(40, 200))},
        {"begin_suppress_tokens": list(range(40, 200))},
        {"bad_words_ids": [[token] for token in range(40, 200)]},
        {"forced_eos_token_id": 7},
        {"num_beams": 4, "num_return_sequences": 2, "do_sample": True},
        {"max_length": 5, "min_new_tokens": 3},
        {"sequence_bias": [[[50], 100.0]]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_continuation_is_greedy_whatever_the_generation_config_says(settings, bos):
    lm = make_lm("llama", bos=bos)
    for name, value in settings.items():
        setattr(lm.model.generation_config, name, value)
    observations = make_prober(lm, new_tokens=LENGTH).observe(PROBES)
    assert [o.generated for o in observations] == [slow_greedy(lm, probe, LENGTH) for probe in PROBES]
    assert all(getattr(lm.model.generation_config, name) == value for name, value in settings.items())
