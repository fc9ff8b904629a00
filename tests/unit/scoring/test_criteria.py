"""Each measure on examples worked by hand."""

from __future__ import annotations

import math

import pytest
from knbench.benchmark.core.records import Answer, Observation
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.scoring.criteria import MEASURES


def answer(*probabilities, ranks=None, argmax=None):
    logs = [math.log(p) for p in probabilities]
    ranks = ranks if ranks is not None else [0] * len(logs)
    return Answer(
        logprob=sum(logs), token_logprobs=tuple(logs), ranks=tuple(ranks), argmax=tuple(argmax or [7] * len(logs))
    )


def observation(target, rival, top_id=7, generated="", **more):
    return Observation(target_answer=target, rival_answer=rival, top_id=top_id, generated=generated, **more)


def probe(expect="new", kind="completion", target="Mexico City", aliases=()):
    return Probe("c", kind, "p", target, "Ottawa", expect, tuple(aliases))


def value(measure, p, after, before=None):
    return MEASURES[measure].of(p, before or after, after)


def test_two_token_target_on_which_four_measures_differ():
    # "Mexico" is second behind "Ottawa" at its place; after "Mexico", "City" is certain. 0.3 * 0.99 < 0.4.
    seen = observation(answer(0.3, 0.99, ranks=[1, 0]), answer(0.4), generated=" Ottawa.")
    assert value("success", probe(), seen) == 0
    assert value("exact", probe(), seen) == 0
    assert value("token_accuracy", probe(), seen) == 0.5
    assert value("generated", probe(), seen) == 0
    assert value("magnitude", probe(), seen) == pytest.approx(0.297 - 0.4)
    # More probable than the rival and yet never said: success without exact.
    seen = observation(answer(0.3, 0.9, ranks=[1, 0]), answer(0.1), generated=" Toronto")
    assert (value("success", probe(), seen), value("exact", probe(), seen)) == (1, 0)
    # Said under teacher forcing and not freely: the greedy continuation goes on with another spelling.
    seen = observation(answer(0.6, 0.9), answer(0.1), generated=" Mexico. City")
    assert (value("exact", probe(), seen), value("generated", probe(), seen)) == (1, 0)


def test_gone_turns_every_measure_round():
    seen = observation(answer(0.2, ranks=[1]), answer(0.5), generated=" Italy")
    gone = probe("gone", target="Canada")
    assert value("success", gone, seen) == value("exact", gone, seen) == value("generated", gone, seen) == 1
    assert value("magnitude", gone, seen) == pytest.approx(0.3)
    still = observation(answer(0.5), answer(0.2), generated=" Canada.")
    assert value("success", gone, still) == value("exact", gone, still) == value("generated", gone, still) == 0


def test_unchanged_is_judged_against_the_state_before():
    before = observation(answer(0.1, 0.1, argmax=[3, 4]), answer(0.5), top_id=3, generated=" the city")
    after = observation(answer(0.6, 0.6, argmax=[3, 9]), answer(0.5), top_id=3, generated=" the city ", kl=0.25)
    same = probe("unchanged")
    assert value("exact", same, after, before) == 1  # the wrong answer, but the one it gave before
    assert value("success", same, after, before) == 0  # 0.36 < 0.5
    assert value("token_accuracy", same, after, before) == 0.5
    assert value("generated", same, after, before) == 1
    assert value("kl", same, after, before) == 0.25


def test_sentence_pairs_have_success_and_nothing_else():
    seen = Observation(target_answer=answer(0.1, 0.2), rival_answer=answer(0.1, 0.1))
    assert {name: value(name, probe(kind="minimal_pair"), seen) for name in MEASURES} == {
        "success": 1, "magnitude": None, "exact": None, "token_accuracy": None, "generated": None, "kl": None,
        "flipped": 0, "entropy": None, "success_per_token": None, "magnitude_per_token": None,
        "entropy_treebank": None, "f1": None, "rouge_l": None,
    }  # fmt: skip


def test_a_prediction_flips_when_target_and_rival_change_places():
    yes, no = observation(answer(0.6), answer(0.1)), observation(answer(0.1), answer(0.6))
    assert [value("flipped", probe(e), yes, no) for e in ("new", "gone", "unchanged")] == [1, 1, 1]
    assert value("flipped", probe(), yes, yes) == 0


def test_entropy_of_written_text_by_hand():
    written = Observation(text="a b a b a")  # 2-grams: ab 2, ba 2; 3-grams: aba 2, bab 1
    thirds = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert value("entropy", probe(kind="generation"), written) == pytest.approx((2 / 3 * 1 + 4 / 3 * thirds) / 2)
    assert value("entropy", probe(kind="generation"), Observation(text="so so so so")) == 0
    assert value("entropy", probe(kind="generation"), Observation(text="one two")) is None
    others = {
        name: value(name, probe("unchanged", "generation"), written) for name in MEASURES if "entropy" not in name
    }
    assert set(others.values()) == {None}


def named(expect="new", target="United States", rival="United States of America", **more):
    return Probe("c", "completion", "p", target, rival, expect, **more)


@pytest.mark.parametrize("expect", ["new", "gone", "unchanged"])
@pytest.mark.parametrize(
    ("target", "rival"),
    [
        ("United States", "United States of America"),
        ("United States of America", "United States"),
        ("Guinea", "Guinea-Bissau"),
        ("C", "C++"),
        ("大阪", "大阪府"),
        ("Rome", "Rome"),
    ],
)
def test_answers_of_which_one_begins_the_other_are_not_compared(expect, target, rival):
    seen = observation(answer(0.3), answer(0.2), generated=" x")
    p = named(expect, target, rival)
    assert [value(m, p, seen) for m in ("success", "magnitude", "flipped")] == [None, None, None]
    assert value("exact", p, seen) is not None


def test_answers_whose_tokens_begin_the_other_are_not_compared():
    niger, nigeria = answer(0.3), answer(0.3, 0.5, ranks=[0, 1])
    nested = observation(niger, nigeria, generated=" Niger")
    assert value("success", named(target="Niger", rival="Nigeria"), nested) is None
    assert value("success", named(target="Nigeria", rival="Niger"), observation(nigeria, niger)) is None
    separate = observation(answer(0.3), answer(0.1, 0.5), generated=" Niger")
    assert value("success", named(target="Niger", rival="Nigeria"), separate) == 1
    assert value("success", named(target="harp", rival="harpsichord"), nested) is None
    # Singular and plural are compared as in BLiMP.
    assert value("success", named(target="dog", rival="dogs"), nested) == 1


@pytest.mark.parametrize(
    ("generated", "said"),
    [
        (" United States.", 1),
        (" United States", 1),
        (" the United States and", 1),
        (" United States of America.", 0),
        (" United States of", 0),
        (" United States of Mexico", 1),
    ],
)
def test_the_longer_answer_is_not_counted_as_the_shorter(generated, said):
    seen = observation(answer(0.3), answer(0.2), generated=generated)
    assert value("generated", named(), seen) == said
    assert value("generated", named("gone"), seen) == 1 - said
    swapped = named(target="United States of America", rival="United States")
    assert value("generated", swapped, seen) == float("America" in generated)
