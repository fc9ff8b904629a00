"""Contrasts of published minimal pairs, worked by hand."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.schema import EditRequest
from knbench.tasks.contrasts import contrast_of
from knbench.tasks.sampling import HashSampler
from knbench.tasks.specificity import specificity_probes


def request(text, good, bad):
    prefix, _, cue = text.rpartition(" ")
    return EditRequest(f"{prefix} {{}}".strip(), cue, target_new=bad, target_true=good)


@pytest.mark.parametrize(
    ("paradigm", "text", "good", "bad", "contexts"),
    [
        ("anaphor_gender_agreement", "Mark hates", "himself", "itself", ("himself", "itself")),
        ("principle_A_c_command", "Women that saw Al hurt", "themselves", "himself", ("themselves", "himself")),
        ("npi_present_1", "Even Ann has", "really", "ever", ("no licensor", "licensor")),
        (
            "determiner_noun_agreement_1",
            "Ann sold those",
            "cups",
            "cup",
            ("determiners plural", "determiners singular"),
        ),
        (
            "determiner_noun_agreement_with_adjective_1",
            "Ann sold that old",
            "cup",
            "cups",
            ("determiners singular", "determiners plural"),
        ),
        ("regular_plural_subject_verb_agreement_1", "Ann", "hasn't", "haven't", ("subject singular", "subject plural")),
        ("regular_plural_subject_verb_agreement_1", "All men", "were", "is", ("subject plural", "subject singular")),
        (
            "distractor_agreement_relational_noun",
            "The aunts of Al",
            "worry",
            "worries",
            ("subject plural", "subject singular"),
        ),
        (
            "distractor_agreement_relational_noun",
            "The aunt of Al",
            "passes by",
            "pass by",
            ("subject singular", "subject plural"),
        ),
        ("wh_vs_that_no_gap", "Ann knew", "that", "who", None),
        ("regular_plural_subject_verb_agreement_1", "Ann", "can", "could", None),
        ("determiner_noun_agreement_1", "Ann sold", "cups", "cup", None),
    ],
)
def test_the_contexts_of_pairs_that_differ_in_one_word(paradigm, text, good, bad, contexts):
    contrast = contrast_of(paradigm, request(text, good, bad), one_word=True)
    assert (contrast and (contrast.good_context, contrast.bad_context)) == contexts


def test_pairs_that_differ_in_the_determiner_and_pairs_without_a_contrast():
    pair = request("Ann sold", "this cup", "these cup")
    contrast = contrast_of("determiner_noun_agreement_2", pair, one_word=False)
    assert contrast is not None
    assert (contrast.good_context, contrast.bad_context) == ("object", None)
    assert contrast_of("wh_island", pair, one_word=False) is None
    assert contrast_of("determiner_noun_agreement_2", request("Ann sold", "a cup", "these cup"), one_word=False) is None


def test_adjectives_stay_between_determiner_and_noun_and_decide_the_article():
    contrast = contrast_of(
        "determiner_noun_agreement_with_adjective_1", request("Ann sold that old", "cup", "cups"), one_word=True
    )
    prompts = [p.prompt for n in range(40) for p in specificity_probes(contrast, HashSampler(1), str(n))]
    assert all(prompt.endswith(" old") for prompt in prompts)
    assert any(prompt.endswith(" an old") for prompt in prompts)
    assert not any(prompt.endswith(" a old") for prompt in prompts)


@pytest.mark.parametrize("noun", ["university", "hour", "unicycle", "euro"])
def test_no_article_is_used_that_the_spelling_does_not_decide(noun):
    contrast = contrast_of("determiner_noun_agreement_1", request("Ann saw this", noun, f"{noun}s"), one_word=True)
    prompts = [p.prompt for n in range(40) for p in specificity_probes(contrast, HashSampler(1), str(n))]
    assert not {"a", "an"} & {prompt.split()[-1] for prompt in prompts}


def test_the_edited_cue_is_in_no_probe():
    contrast = contrast_of(
        "determiner_noun_agreement_2", request("Ann asked for", "this cup", "these cup"), one_word=False
    )
    prompts = [p.prompt for n in range(40) for p in specificity_probes(contrast, HashSampler(1), str(n))]
    assert len(prompts) == 120
    assert not any("for" in prompt.split() for prompt in prompts)
