"""Each measure on examples worked by hand."""

from __future__ import annotations

import math

import pytest
from knbench.benchmark.core.records import Answer, Observation
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.scoring.criteria import MEASURES, begins_with


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
        "flipped": 0, "entropy": None,
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
    others = {name: value(name, probe("unchanged", "generation"), written) for name in MEASURES if name != "entropy"}
    assert set(others.values()) == {None}


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        (" Rome, Italy", ["Rome"], True),
        ("Romeo and", ["Rome"], False),
        (" ROME", ["Rome"], True),
        (" St. Louis is", ["St. Louis"], True),
        (" Washington DC,", ["Washington, D.C.", "Washington DC"], True),
        (" the Rome", ["Rome"], True),
        (' "Rome"', ["Rome"], True),
        (" in Rome", ["Rome"], False),
        (" St Louis is", ["St. Louis"], True),
        (" St. Paul", ["St. Louis"], False),
        (" the Hague", ["The Hague"], True),
        (" Port au Prince", ["Port-au-Prince"], True),
        (" Washington, D.C.", ["Washington DC"], False),
        (" Mexico. City", ["Mexico City"], False),
        ("", ["Rome"], False),
        ("Rome", [""], False),
    ],
)
def test_begins_with(text, answers, found):
    assert begins_with(text, answers) is found
