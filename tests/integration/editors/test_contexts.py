"""Sampled contexts depend on the seed and the model."""

from __future__ import annotations

import pytest
from knbench.editors.rome import Rome, RomeConfig

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
