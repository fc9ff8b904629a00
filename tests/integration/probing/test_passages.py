"""The divergence on held-out passages, against one forward pass per text that was read."""

from __future__ import annotations

import math

import pytest
import torch
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.probing.base import Reference
from knbench.benchmark.probing.passages import (
    MASK_EVERY,
    PASSAGES,
    integrity_probe,
    passage_rows,
)
from knbench.benchmark.probing.prober import make_prober

from tests.conftest import CAUSAL, make_lm

PROBE = integrity_probe()
QUICK = ("gpt2", "llama", "gemma3")
"""Kinds of which every run of the tests compares each token; the others belong to the long tests."""

OTHER = Probe("neighbourhood", "completion", "The capital of France is", "Paris", "Rome", "unchanged")


def change(lm, scale=0.5):
    torch.manual_seed(0)
    weight = lm.parameter(lm.mlp_weight_name(0)).data
    weight += scale * torch.randn_like(weight)


def slow_logprobs(lm):
    """Return the predictions after every token of every passage, one forward pass each."""
    found = []
    for passage in PASSAGES:
        ids = lm.encode(passage).ids
        first = 1 if lm.bos_id is not None else 0
        for end in range(first, len(ids)):
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([ids[: end + 1]])).logits[0, -1]
            found.append(logits.double().log_softmax(-1))
    return torch.stack(found)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.slow, pytest.mark.long]) for kind in CAUSAL]
)
def test_integrity_equals_one_pass_per_token(kind, bos):
    lm = make_lm(kind, bos=bos)
    prober, reference = make_prober(lm, batch_size=3), Reference()
    before = slow_logprobs(lm)
    (unedited,) = prober.observe([PROBE], save_to=reference)
    assert (unedited.kl, unedited.js) == (0, 0)
    change(lm)
    now = slow_logprobs(lm)
    (edited,) = prober.observe([PROBE], compare_to=reference)
    mean = ((before.exp() + now.exp()) / 2).log()
    js = ((before.exp() * (before - mean)).sum(-1) + (now.exp() * (now - mean)).sum(-1)) / 2
    assert edited.kl == pytest.approx(float((before.exp() * (before - now)).sum(-1).mean()), rel=1e-3)
    assert edited.js == pytest.approx(float(js.mean()), rel=1e-3)
    assert edited.kl > 1e-3


@pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
def test_unedited_model_diverges_by_exactly_zero(kind):
    lm = make_lm(kind)
    prober, reference = make_prober(lm), Reference()
    prober.observe([PROBE], save_to=reference)
    (again,) = prober.observe([PROBE], compare_to=reference)
    assert (again.kl, again.js) == (0, 0)


def test_passages_are_read_once_and_keep_their_place_among_probes(lm, monkeypatch):
    prober, reference = make_prober(lm), Reference()
    prober.observe([OTHER, PROBE], save_to=reference)
    change(lm)
    calls = []
    monkeypatch.setattr(prober, "_passage_logprobs", _counted(prober._passage_logprobs, calls))
    first, other, second = prober.observe([PROBE, OTHER, PROBE], compare_to=reference)
    assert len(calls) == 1
    assert first == second
    assert other == prober.observe([OTHER], compare_to=reference)[0]


def _counted(function, calls):
    def call(rows):
        calls.append(len(rows))
        return function(rows)

    return call


def test_integrity_does_not_depend_on_the_batch_size(lm):
    values = []
    for size in (1, 3, 50):
        prober, reference = make_prober(lm, batch_size=size), Reference()
        prober.observe([PROBE], save_to=reference)
        before = lm.parameter(lm.mlp_weight_name(0)).data.clone()
        change(lm)
        values.append(prober.observe([PROBE], compare_to=reference)[0].kl)
        lm.parameter(lm.mlp_weight_name(0)).data.copy_(before)
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_prefix_is_compared_at_the_same_places_of_the_text(kind):
    lm = make_lm(kind)
    prober, reference = make_prober(lm), Reference()
    prober.observe([PROBE], save_to=reference)
    lm.prompt_prefix = "The capital of Canada is Rome. "
    rows = passage_rows(lm)
    for row, ends in zip(rows, reference.passages.ends, strict=True):
        assert len(set(ends) - set(row.columns)) <= 1  # the first token may merge with the prefix
    assert prober.observe([PROBE], compare_to=reference)[0].kl > 0


def test_masked_model_predicts_each_fifth_token():
    lm = make_lm("bert")
    for passage, row in zip(PASSAGES, passage_rows(lm), strict=True):
        ids = lm.encode(passage).ids
        masked = [i for i, (a, b) in enumerate(zip(ids, row.ids, strict=True)) if a != b]
        assert {row.ids[i] for i in masked} == {lm.mask_id}
        assert masked == sorted(row.columns.values())
        words = [i for i, span in enumerate(lm.encode(passage).spans) if span[1] > span[0]]
        assert masked == words[MASK_EVERY // 2 :: MASK_EVERY]


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_passages_are_cut_to_the_positions_of_a_model(kind, monkeypatch):
    lm = make_lm(kind)
    monkeypatch.setattr("knbench.benchmark.probing.passages.max_positions", lambda _: 9)
    rows = passage_rows(lm)
    assert max(len(row.ids) for row in rows) <= 9
    assert all(row.columns and max(row.columns.values()) < len(row.ids) for row in rows)


def test_nan_weights_raise(lm):
    prober, reference = make_prober(lm), Reference()
    prober.observe([PROBE], save_to=reference)
    lm.parameter(lm.mlp_weight_name(0)).data[:] = math.nan
    with pytest.raises(FloatingPointError, match="not numbers"):
        prober.observe([PROBE], compare_to=reference)


def test_passages_without_a_reference_are_refused(lm):
    with pytest.raises(ValueError, match="has not read the passages"):
        make_prober(lm).observe([PROBE], compare_to=Reference())
