"""F1 and ROUGE-L of long answers: worked by hand, and against an independent implementation."""

from __future__ import annotations

import dataclasses
import random

import pytest
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.scoring.criteria import MEASURES, STORED_MEASURES
from knbench.benchmark.scoring.overlap import rouge_l, token_f1, words
from knbench.benchmark.scoring.protocols import PROTOCOLS, unstored_measures
from knbench.benchmark.scoring.summary import summarise

from tests.factories import observation, probe, record

LONG = Probe("reliability", "completion", "What does Ann do?", "Ann paints large birds.", "", "new", ("She draws.",))


def longest_common(first, second):
    """Length of the longest common subsequence, by recursion."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common(first[:-1], second[:-1])
    return max(longest_common(first[:-1], second), longest_common(first, second[:-1]))


def test_scores_worked_by_hand():
    # Articles and marks are ignored: found "ann often paints birds" (4 words), wanted "ann paints large birds" (4).
    assert token_f1("The Ann often paints, birds!", "Ann paints large birds.") == pytest.approx(2 * 3 / 8)
    assert token_f1("a birds birds", "birds") == pytest.approx(2 / 3)  # a repeated word counts once
    assert (token_f1("", "birds"), token_f1("the", "a"), rouge_l("", "birds")) == (0, 0, 0)
    # The order counts in ROUGE-L alone.
    assert token_f1("birds paints Ann", "Ann paints birds") == 1
    assert rouge_l("birds paints Ann", "Ann paints birds") == pytest.approx(1 / 3)
    assert token_f1("東京です", "東京") == pytest.approx(2 / 3)
    assert rouge_l("Она рисует", "она рисует птиц") == pytest.approx(0.8)


def test_rouge_l_equals_the_formula_and_the_tokens_of_the_package():
    from rouge_score.rouge_scorer import RougeScorer

    plain, rng = RougeScorer(["rougeL"]), random.Random(0)
    for _ in range(30):
        first, second = (" ".join(rng.choices(["The", "cat's", "cat", "sat.", "10", "on-line"], k=6)) for _ in "ab")
        n, m, common = len(words(first)), len(words(second)), longest_common(words(first), words(second))
        assert rouge_l(first, second) == pytest.approx(2 * common / (n + m))
        assert rouge_l(first, second) == pytest.approx(plain.score(second, first)["rougeL"].fmeasure)


def test_the_reference_depends_on_what_the_probe_expects():
    before, after = observation(generated=" Ann sings."), observation(generated=" She draws birds.")
    for name, own in (("f1", 2 * 2 / 5), ("rouge_l", 2 * 2 / 5)):
        of = MEASURES[name].of
        assert of(LONG, before, after) == pytest.approx(own)  # the alias is closer than the target
        assert of(dataclasses.replace(LONG, expect="unchanged"), before, after) == 0
        assert of(dataclasses.replace(LONG, expect="unchanged"), before, before) == 1
        assert of(dataclasses.replace(LONG, expect="gone"), before, after) is None
        assert of(dataclasses.replace(LONG, kind="minimal_pair"), before, after) is None
        with pytest.raises(ValueError, match="no continuation"):
            of(LONG, before, observation(generated=None))


def test_a_protocol_shows_the_measures_and_results_do_not_store_them():
    assert unstored_measures("long-answers") == ("f1", "rouge_l")
    assert not {"f1", "rouge_l"} & set(STORED_MEASURES)
    records = [record(0, [probe("reliability", observation(generated="x y"), target="x")])]
    rows = {(row.criterion, row.measure): row.value for row in summarise(records, unstored_measures("long-answers"))}
    assert rows == {("reliability", "f1"): pytest.approx(2 / 3), ("reliability", "rouge_l"): pytest.approx(2 / 3)}
    assert [column.name for column in PROTOCOLS["long-answers"].columns][:2] == [
        "reliability F1",
        "reliability ROUGE-L",
    ]
