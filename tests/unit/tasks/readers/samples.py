"""Sample records of the published data sets, and helpers for the tests of their readers."""

from __future__ import annotations

import json

from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.scoring.criteria import CRITERIA

P36 = ("The capital of {} is [MASK] .", "[MASK] is the capital of {}.", "{}'s capital city, [MASK].")
P1376 = ("The capital of [MASK] is {}.", "{} is the capital of [MASK].")
P101 = ("{} works in the field of [MASK].",)


def bag(patterns, relation, subject, answer):
    return [[pattern.replace("{}", subject), answer, relation] for pattern in patterns]


def capitals(*facts):
    return [bag(P36, "P36(capital)", subject, answer) for subject, answer in facts]


CAPITALS = capitals(("Canada", "Ottawa"), ("Italy", "Rome"), ("France", "Paris"), ("Kingdom of Italy", "Rome"))
SAMPLE = {"P36": CAPITALS, "P1376": [bag(P1376, "P1376(capital of)", *f) for f in (("Oslo", "Norway"), ("Bern", "Y"))]}

PAIR = {
    "sentence_good": "Katherine can't help herself.",
    "sentence_bad": "Katherine can't help himself.",
    "one_prefix_prefix": "Katherine can't help",
    "one_prefix_word_good": "herself",
    "one_prefix_word_bad": "himself",
    "one_prefix_method": True,
    "UID": "anaphor_gender_agreement",
    "pairID": "0",
}
OTHER = {
    **PAIR,
    "sentence_good": "Mark hates himself.",
    "sentence_bad": "Mark hates herself.",
    "one_prefix_prefix": "Mark hates",
    "one_prefix_word_good": "himself",
    "one_prefix_word_bad": "herself",
    "pairID": "1",
}
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["Danielle Darrieux spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Henri Barbusse is"],
    "attribute_prompts": ["J.R.R. Tolkien is a native speaker of"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
MEND = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "IIT"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
}
EASYEDIT = {
    "subject": "Watts Humphrey",
    "prompt": "What university did Watts Humphrey attend?",
    "target_new": "University of Michigan",
    "ground_truth": "Illinois Institute of Technology",
    "rephrase_prompt": "What university did Watts Humphrey take part in?",
    "locality_prompt": "nq question: who played desmond doss father in hacksaw ridge",
    "locality_ground_truth": "Hugo Weaving",
}
KNOWEDIT = {
    "subject": "Leonardo DiCaprio",
    "prompt": "The name of the country of citizenship of Leonardo DiCaprio is",
    "target_new": "Syria",
    "ground_truth": ["United States of America", "USA"],
    "rephrase": ["Leonardo DiCaprio is a citizen of"],
    "portability": {
        "Reasoning": [
            {"prompt": "The capital of Leonardo DiCaprio's country is", "ground_truth": [["Damascus", "Sham"]]}
        ],
        "Subject_Aliasing": [{"prompt": "Leo is a citizen of", "ground_truth": "Syria"}],
        "Logical_Generalization": None,
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The gender of Leonardo DiCaprio is", "ground_truth": ["male"]}],
        "Forgetfulness": [{"prompt": "Leonardo DiCaprio's country, which is not Syria, is", "ground_truth": "USA"}],
    },
}


def put(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def put_lines(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def by_id(task):
    return {case.id: case for case in task.cases}


def completion(criterion, prompt, target, rival, expect="new", aliases=()):
    return Probe(criterion, "completion", prompt, target, rival, expect, aliases)


def read_task(reader, selection=None, source=None):
    """Return the task and the report of the skips of a registered reader."""
    return registry.load(registry.registered(registry.READERS)[reader]).read(selection, source)


def assert_well_formed(task):
    cases = task.cases
    assert len({case.id for case in cases}) == len(cases)
    assert task.criteria == tuple(c for c in CRITERIA if any(p.criterion == c for k in cases for p in k.probes))
    assert all([task.licence, task.citation, task.source, task.title, task.description, task.relation])
    for case in cases:
        new_facts = not case.request.target_true
        assert all(r.target_new.casefold() != r.target_true.casefold() for r in case.requests)
        assert case.request.text == case.request.text.strip()
        assert {n for condition in case.conditions for n in condition.probes} <= set(range(len(case.probes)))
        for probe in case.probes:
            assert probe.target
            assert probe.rival or new_facts or probe.criterion not in ("reliability", "paraphrase", "distractor")
            assert probe.rival.casefold() not in {answer.casefold() for answer in (probe.target, *probe.aliases)}
            assert probe.prompt == probe.prompt.strip()
            assert bool(probe.prompt) == (probe.kind == "completion")
