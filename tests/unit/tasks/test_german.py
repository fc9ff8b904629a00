"""The German tasks: agreement is read from the sentences, independently of the names in the lexicon."""

from __future__ import annotations

import re

import pytest
import yaml
from knbench.benchmark.core import registry
from knbench.tasks import GERMAN

TASKS = {path.stem: registry.task(path.stem) for path in sorted(GERMAN.glob("*.yaml"))}
THINGS = yaml.safe_load((GERMAN.parents[1] / "data/lexicon.de.yaml").read_text(encoding="utf-8"))["nouns"]["things"]
SINGULAR = re.compile(r"\b(dieses|jenes|jedes|ein|mein|dein|sein|unser|kein|irgendein)$")
PLURAL = re.compile(r"\b(diese|jene|alle|einige|zwei|drei|viele|mehrere|wenige|meine|unsere)$")
SINGULAR_SUBJECT = re.compile(
    r"dass (der \w+|er|jemand|niemand|mein Bruder|unsere Tante|das Kind|sein Vater|eine Frau) \w+$"
)
PLURAL_SUBJECT = re.compile(
    r"dass (die \w+|wir|beide|meine Eltern|viele Leute|zwei Frauen|unsere Töchter|alle Kinder) \w+$"
)


def right_forms(task):
    """Yield prompt, right form and wrong form of each statement that is true before the edit."""
    for case in task.cases:
        for support in case.request.support:
            yield support.prompt, support.target, None
        for probe in case.probes:
            if probe.kind == "completion":
                right, wrong = (
                    (probe.target, probe.rival) if probe.expect == "unchanged" else (probe.rival, probe.target)
                )
                yield probe.prompt, right, wrong


def is_verb(word):
    return word[0].islower()


@pytest.mark.parametrize("name", TASKS)
def test_the_right_form_agrees_with_the_words_before_it(name):
    plurals = set(THINGS.values())
    found = set()
    for prompt, right, wrong in right_forms(TASKS[name]):
        if is_verb(right):
            plural = PLURAL_SUBJECT.search(prompt) is not None
            assert plural != (SINGULAR_SUBJECT.search(prompt) is not None), prompt
            assert right.endswith("en") == plural, (prompt, right)
            assert wrong is None or wrong.endswith("t") == plural
        else:
            plural = PLURAL.search(prompt) is not None
            assert plural != (SINGULAR.search(prompt) is not None), prompt
            assert (right in plurals) == plural, (prompt, right)
            assert wrong is None or THINGS.get(right) == wrong or THINGS.get(wrong) == right
        found.add((is_verb(right), plural))
    assert len(found) == 4  # both phenomena, in both numbers


@pytest.mark.parametrize("name", TASKS)
def test_a_sentence_pair_contains_one_right_sentence(name):
    for pair in TASKS[name].pairs:
        assert pair["sentence_good"].split()[:-1] == pair["sentence_bad"].split()[:-1]
        prompt, right = pair["one_prefix_prefix"], pair["one_prefix_word_good"]
        agreement = PLURAL_SUBJECT if is_verb(right) else PLURAL
        plural = right.endswith("en") if is_verb(right) else right in THINGS.values()
        assert (agreement.search(prompt) is not None) == plural
