"""Specificity probes: their form, and their grammaticality by tables that are independent of the contexts' names."""

from __future__ import annotations

import re

import pytest
import yaml
from knbench.benchmark.core import registry
from knbench.tasks import DEFINITIONS
from knbench.tasks.sampling import HashSampler
from knbench.tasks.specificity import Contrast, specificity_probes

TASKS = {name: task for name, task in registry.tasks().items() if task.kind == "linguistic"}
LEXICON = yaml.safe_load((DEFINITIONS.parent / "data/lexicon.yaml").read_text())
PLURAL_OF = {**LEXICON["nouns"]["regular"], **LEXICON["nouns"]["irregular"]}

SINGULAR_DETERMINERS = {"a", "an", "one", "every", "each", "another", "this", "that", "this other"}
PLURAL_DETERMINERS = {
    "two",
    "three",
    "several",
    "many",
    "both",
    "these",
    "those",
    "these other",
    "all these",
    "all those",
}
FEMALE = {"girlfriend", "bride", "grandmother", "lady", "niece", "nun", "granddaughter", "duchess"}
MALE = {"boyfriend", "groom", "grandfather", "gentleman", "nephew", "monk", "grandson", "duke"}
PLURAL = {"parents", "visitors", "grandparents", "people", "twins", "couples", "colleagues", "guests"}
SINGULAR_SUBJECT = re.compile(r"(he|she|[A-Z][a-z]+|my aunt|her boss|our landlord|his colleague)$", re.IGNORECASE)
PLURAL_SUBJECT = re.compile(
    r"(they|we|\w+ and [A-Z]\w+|my parents|our guests|these \w+s|many people here)$", re.IGNORECASE
)
NEGATIVE = re.compile(r"\b(no|hardly any|not many)\b", re.IGNORECASE)


def specificity(case):
    return [probe for probe in case.probes if probe.criterion == "specificity"]


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_two_probes_want_the_old_form_and_one_the_new_form(task):
    for case in task.cases:
        probes, request = specificity(case), case.request
        assert [(p.target, p.rival) for p in probes] == [
            (request.target_true, request.target_new),
            (request.target_true, request.target_new),
            (request.target_new, request.target_true),
        ]
        assert {(p.kind, p.expect) for p in probes} == {("completion", "unchanged")}
        assert {p.suffix for p in probes} == {case.probes[0].suffix}
        prompts = [p.prompt for p in probes]
        assert len(set(prompts)) == 3
        assert not set(prompts) & {p.prompt for p in case.probes if p.criterion != "specificity"}
        for prompt in prompts:
            assert not set("{}[]") & set(prompt)
            assert prompt == " ".join(prompt.split())
            assert prompt[0].isupper()


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_prompts_are_varied(task):
    prompts = [p.prompt for case in task.cases for p in specificity(case)]
    assert len(set(prompts)) > len(prompts) / 4


def read_noun_phrase(probe):
    """Return the determiner, the adjective or "", and whether the noun is plural, from the sentence alone."""
    words = probe.prompt.split()
    adjective = words.pop() if words[-1] in LEXICON["adjectives"] else ""
    known = SINGULAR_DETERMINERS | PLURAL_DETERMINERS
    determiner = " ".join(words[-2:]) if " ".join(words[-2:]) in known else words[-1]
    assert determiner in known, probe.prompt
    return determiner, adjective, probe.target in PLURAL_OF.values()


@pytest.mark.parametrize(
    ("name", "cues"),
    [
        ("det-noun-agreement", "determiners"),
        ("det-noun-irregular", "determiners"),
        ("det-noun-adjective", "determiners"),
        ("quantifier-agreement", "quantifiers"),
    ],
)
def test_determiners_of_other_classes_agree_with_the_noun(name, cues):
    own_class = {word for words in LEXICON[cues].values() for word in words}
    for case in TASKS[name].cases:
        for probe in specificity(case):
            determiner, adjective, plural = read_noun_phrase(probe)
            assert determiner in (PLURAL_DETERMINERS if plural else SINGULAR_DETERMINERS), probe
            assert not own_class & set(determiner.split()), probe
            assert f" {adjective}" in f" {case.request.text}"
            assert PLURAL_OF.get(probe.target) == probe.rival or PLURAL_OF.get(probe.rival) == probe.target
            if determiner in ("a", "an"):
                assert (determiner == "an") == ((adjective or probe.target)[0] in "aeiou"), probe


@pytest.mark.parametrize("name", ["anaphor-gender", "anaphor-number"])
def test_reflexives_agree_with_subjects_that_no_edit_uses(name):
    nouns = {
        **dict.fromkeys(FEMALE, "herself"),
        **dict.fromkeys(MALE, "himself"),
        **dict.fromkeys(PLURAL, "themselves"),
    }
    of_edits = {word for case in TASKS[name].cases for word in case.request.subject.split()[:-1]} - {"the", "The"}
    assert not of_edits & set(nouns)
    for case in TASKS[name].cases:
        for probe in specificity(case):
            (subject,) = set(probe.prompt.split()) & set(nouns)
            assert nouns[subject] == probe.target, probe


@pytest.mark.parametrize("name", ["subject-verb-agreement", "subject-verb-irregular", "subject-verb-attractor"])
def test_verbs_agree_with_subjects_without_the(name):
    verbs = LEXICON["verbs"]["intransitive"]
    for case in TASKS[name].cases:
        for probe in specificity(case):
            subject, adverb = probe.prompt.rsplit(" ", 1)
            assert adverb in {"usually", "often", "always", "rarely", "sometimes"}
            plural = PLURAL_SUBJECT.search(subject) is not None
            assert plural or SINGULAR_SUBJECT.search(subject), probe
            assert probe.target in (verbs.keys() if plural else verbs.values()), probe


def test_ever_is_the_target_exactly_after_a_negative_phrase():
    for case in TASKS["npi-licensing"].cases:
        for probe in specificity(case):
            assert bool(NEGATIVE.search(probe.prompt)) == (probe.target == "ever"), probe
            assert not re.search(r"\bof the\b", probe.prompt)
            assert probe.prompt.endswith(" have")


def test_cues_of_the_own_class_are_left_out_even_if_fewer_remain():
    contrast = Contrast(
        "cup", "cups", "determiners singular", "determiners plural", cue_class=("a", "one", "every", "each")
    )
    probes = list(specificity_probes(contrast, HashSampler(1), "x"))
    assert [p.target for p in probes] == ["cup", "cups"]
    assert probes[0].prompt.endswith(" another")


def test_a_contrast_without_a_context_of_the_bad_form_asks_for_the_good_form_three_times():
    probes = list(specificity_probes(Contrast("this cup", "these cup", "object", None), HashSampler(1), "x"))
    assert [(p.target, p.rival) for p in probes] == [("this cup", "these cup")] * 3
    assert len({p.prompt for p in probes}) == 3


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [t for name, t in TASKS.items() if not name.startswith("german")], ids=lambda t: t.name
)
def test_the_default_model_prefers_the_right_form_before_any_edit(task, real_lm):
    from knbench.benchmark.probing.prober import make_prober

    probes = [probe for case in task.cases[:24] for probe in specificity(case)]
    observations = make_prober(real_lm, batch_size=24, new_tokens=0).observe(probes)
    assert sum(o.prefers_target for o in observations) / len(observations) >= 0.75
