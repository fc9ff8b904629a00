"""The measures of released code: worked by hand, and on numbers of the authors' own implementation."""

from __future__ import annotations

import json
import math

import pytest
from knbench.benchmark.core.records import Answer, Observation
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.scoring.criteria import MEASURES, STORED_MEASURES
from knbench.benchmark.scoring.entropy import ngram_entropy, treebank_words, words
from knbench.benchmark.scoring.protocols import PROTOCOLS, unstored_measures
from knbench.benchmark.scoring.summary import summarise, with_measures

from tests.conftest import SHARED
from tests.factories import probe, record, result

PARITY = SHARED / "parity" / "counterfact_metrics.json"


def answer(*probabilities):
    logs = tuple(math.log(p) for p in probabilities)
    return Answer(logprob=sum(logs), token_logprobs=logs, ranks=(0,) * len(logs), argmax=(1,) * len(logs))


def seen(target, rival, **more):
    return Observation(target_answer=target, rival_answer=rival, **more)


def value(measure, after, expect="new", kind="completion", target="Mexico City", rival="Rome"):
    return MEASURES[measure].of(Probe("c", kind, "p", target, rival, expect), after, after)


def test_an_answer_of_two_tokens_wins_per_token_and_loses_as_a_whole():
    two, one = answer(0.4, 0.9), answer(0.5)  # 0.36 < 0.5 < 0.6 = sqrt(0.36)
    after = seen(two, one)
    assert (value("success", after), value("success_per_token", after)) == (0, 1)
    assert value("magnitude", after) == pytest.approx(0.36 - 0.5)
    assert value("magnitude_per_token", after) == pytest.approx(0.6 - 0.5)
    assert (value("success_per_token", after, "unchanged"), value("success_per_token", after, "gone")) == (1, 0)
    assert value("magnitude_per_token", after, "gone") == pytest.approx(0.5 - 0.6)


def test_for_answers_of_one_token_both_forms_are_equal():
    after = seen(answer(0.3), answer(0.2))
    for expect in ("new", "unchanged", "gone"):
        for stored in ("success", "magnitude"):
            assert value(f"{stored}_per_token", after, expect) == pytest.approx(value(stored, after, expect))


def test_released_code_also_compares_answers_of_which_one_begins_the_other():
    after = seen(answer(0.2, 0.9), answer(0.2))
    named = {"target": "United States of America", "rival": "United States"}
    assert (value("success", after, **named), value("success_per_token", after, **named)) == (None, 1)
    same = seen(answer(0.2), answer(0.2))
    assert value("success_per_token", same) == 0  # a tie does not count
    assert value("success_per_token", same, "gone") == 0


def test_probes_without_a_rival_and_sentences_have_no_value():
    after = seen(answer(0.2), answer(0.1))
    for measure in ("success_per_token", "magnitude_per_token"):
        assert value(measure, after, kind="minimal_pair") is None
        assert value(measure, seen(answer(0.2), None), rival="") is None


def parity_records():
    if not PARITY.exists():
        pytest.skip(f"{PARITY.name}: numbers of the authors' code are not part of the repository")
    found = []
    for number, case in enumerate(json.loads(PARITY.read_text(encoding="utf-8"))["cases"]):
        lengths = dict(zip(("target_new", "target_true"), case["tokens"], strict=True))

        def scores(losses, which, lengths=lengths):
            logs = (-losses[which],) * lengths[which]
            return Answer(logprob=sum(logs), token_logprobs=logs, ranks=(0,) * len(logs), argmax=(1,) * len(logs))

        rewrite = case["record"]["requested_rewrite"]
        new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
        probes = []
        for criterion, key, expect in (
            ("reliability", "rewrite_prompts_probs", "new"),
            ("paraphrase", "paraphrase_prompts_probs", "new"),
            ("neighbourhood", "neighborhood_prompts_probs", "unchanged"),
        ):
            for losses in case[key]:
                pair = scores(losses, "target_new"), scores(losses, "target_true")
                pair, names = (pair, (new, true)) if expect == "new" else (pair[::-1], (true, new))
                after = seen(*pair, top_id=1, generated="x", kl=0.0)
                more = {"target": names[0], "rival": names[1], "expect": expect, "before": after}
                probes.append(probe(criterion, after, **more))
        found.append((case, record(number, probes)))
    return found


def test_six_records_of_the_authors_code():
    """ES to NM from the authors' losses: counterfact-code equals their formula; counterfact multiplies over tokens."""
    cases, records = zip(*parity_records(), strict=True)

    def theirs(key, wanted, other, of):
        per_case = [[of(x[wanted], x[other]) for x in case[key]] for case in cases]
        return sum(sum(values) / len(values) for values in per_case) / len(per_case)

    expected = {}
    for short, key, wanted, other in (
        ("E", "rewrite_prompts_probs", "target_new", "target_true"),
        ("P", "paraphrase_prompts_probs", "target_new", "target_true"),
        ("N", "neighborhood_prompts_probs", "target_true", "target_new"),
    ):
        expected[f"{short}S"] = theirs(key, wanted, other, lambda a, b: float(b > a))
        expected[f"{short}M"] = theirs(key, wanted, other, lambda a, b: math.exp(-a) - math.exp(-b))
    expected["S"] = 3 / sum(1 / expected[name] for name in ("ES", "PS", "NS"))
    protocol = PROTOCOLS["counterfact-code"]
    rows = {(r.criterion, r.measure): r.value for r in summarise(records, unstored_measures("counterfact-code"))}
    found = {c.name: rows[c.criterion, c.measure] for c in protocol.columns if c.name != "GE"}
    assert found == pytest.approx(expected, rel=1e-9)
    assert (round(found["PS"], 3), round(found["EM"], 3)) == (0.917, 0.930)
    rows = {(r.criterion, r.measure): r.value for r in summarise(records)}
    product = {c.name: rows[c.criterion, c.measure] for c in PROTOCOLS["counterfact"].columns if c.name != "GE"}
    assert (round(product["PS"], 3), round(product["EM"], 3)) == (0.750, 0.882)


# --- GE ------------------------------------------------------------------------------------------------------------


def test_tokens_of_both_forms():
    text = "The U.S. isn't small, Mr. Smith's \"Rome\" is. It's fine (really)... so"
    assert " ".join(words(text)) == (
        "the u . s . isn ' t small , mr . smith ' s \" rome \" is . it ' s fine ( really ) . . . so"
    )
    pytest.importorskip("nltk")
    assert " ".join(treebank_words(text)) == (
        "The U.S. is n't small , Mr. Smith 's `` Rome '' is . It 's fine ( really ) ... so"
    )


def test_full_stops_of_sentences_are_tokens():
    pytest.importorskip("nltk")
    tokens = treebank_words("He left. She came! Did St. Louis win? No")
    assert " ".join(tokens) == "He left . She came ! Did St. Louis win ? No"


def test_case_counts_in_the_released_entropy_alone():
    text = "The cat. the cat. The cat."  # 9 tokens
    pytest.importorskip("nltk")

    def bits(*counts):
        return -sum(c / sum(counts) * math.log2(c / sum(counts)) for c in counts)

    generation = {"kind": "generation", "rival": ""}
    after = Observation(text=text)
    # the cat 3, cat . 3, . the 2; the cat . 3, cat . the 2, . the cat 2
    folded = (2 / 3 * bits(3, 3, 2) + 4 / 3 * bits(3, 2, 2)) / 2
    # The cat 2, the cat 1, cat . 3, ". the" 1, ". The" 1; The cat . 2, the cat . 1, cat . the 1, cat . The 1,
    # . the cat 1, . The cat 1
    kept = (2 / 3 * bits(2, 1, 3, 1, 1) + 4 / 3 * bits(2, 1, 1, 1, 1, 1)) / 2
    assert value("entropy", after, **generation) == pytest.approx(folded)
    assert value("entropy_treebank", after, **generation) == pytest.approx(kept)
    assert value("entropy_treebank", Observation(text="one two"), **generation) is None
    assert value("entropy_treebank", seen(answer(0.2), answer(0.1))) is None


def test_the_entropy_equals_the_mean_of_weighted_entropies():
    """As released: entropies of 2- and 3-grams in bits, weights 2/3 and 4/3, arithmetic mean."""
    stats = pytest.importorskip("scipy.stats")
    tokens = list("ababcabaacbab")
    weighted = []
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        weighted.append(weight * stats.entropy([grams.count(g) for g in set(grams)], base=2))
    assert ngram_entropy(tokens) == pytest.approx(sum(weighted) / 2)


# --- results ---------------------------------------------------------------------------------------------------------


def test_results_do_not_store_the_measures_and_receive_them_on_demand():
    two = seen(answer(0.4, 0.9), answer(0.5), top_id=1, generated="x")
    records = [record(0, [probe("reliability", two, target="Mexico City")])]
    stored = result(records)
    assert {row.measure for row in stored.summary} <= set(STORED_MEASURES)
    shown = with_measures(stored, records, unstored_measures("counterfact-code"))
    assert shown.summary[: len(stored.summary)] == stored.summary
    added = {(row.criterion, row.measure): row.value for row in shown.summary[len(stored.summary) :]}
    assert added == {
        ("reliability", "success_per_token"): 1.0,
        ("reliability", "magnitude_per_token"): pytest.approx(0.1),
    }
    assert with_measures(stored, records, unstored_measures("counterfact")) is stored
