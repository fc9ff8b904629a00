"""Sampled contexts depend on the seed and the model."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.progress import Reporter
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared import covariance
from knbench.editors.shared.covariance import SecondMoments

from tests.conftest import make_lm


def test_contexts_depend_on_seed_and_model():
    one, other = make_lm("llama", seed=1), make_lm("llama", seed=2)
    editor = Rome(RomeConfig(layer=1), seed=3)
    first = editor.contexts(one)
    assert (first[0], len(first)) == ("{}", 21)
    assert editor.contexts(other) != first
    assert editor.contexts(one) == first == Rome(RomeConfig(layer=1), seed=3).contexts(one)
    assert Rome(RomeConfig(layer=1), seed=4).contexts(one) != first


def test_a_context_contains_one_slot():
    with pytest.raises(ValueError, match="exactly one"):
        RomeConfig(layer=1, contexts=("{}", "He said."))


SETTINGS = {
    "repetition_penalty": 1.9,
    "min_p": 0.4,
    "typical_p": 0.2,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(5, 150)),
    "top_k": 1,
    "temperature": 0.1,
    "epsilon_cutoff": 0.02,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_sampled_texts_do_not_depend_on_the_generation_config(name):
    plain, configured = make_lm("llama"), make_lm("llama")
    setattr(configured.model.generation_config, name, SETTINGS[name])
    corpus = covariance.Corpus(tokens=256, length=16)
    for sample in (
        lambda lm: Rome(RomeConfig(layer=1), seed=3).contexts(lm),
        lambda lm: covariance._sampled(lm, 4, corpus, Reporter()).tolist(),
    ):
        assert sample(configured) == sample(plain)
    assert getattr(configured.model.generation_config, name) == SETTINGS[name]
    assert SecondMoments(corpus)._key(configured) != SecondMoments(corpus)._key(plain)
