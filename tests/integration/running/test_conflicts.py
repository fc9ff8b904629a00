"""Edits of one prompt to two targets, and plug-ins that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Editor, NoConfig, editor_class, editor_classes
from knbench.benchmark.running.evaluator import conflicts

from tests.workers import Push, towns


@pytest.mark.parametrize(
    ("settings", "count"), [({"batch_edits": 2}, 1), ({"sequential": 4}, 1), ({}, 0), ({"batch_edits": 4}, 1)]
)
def test_two_targets_of_one_prompt_are_named(settings, count):
    a, b, c, d = towns(4).cases
    b = replace(b, request=replace(a.request, target_new="Paris"))
    found = conflicts([a, b, c, d], RunSettings(**settings))
    assert len(found) == count
    assert all("cases 'Canada 0' and 'Italy 1' edit the prompt" in line for line in found)


class NoSummary(Editor[NoConfig]):
    name, Config = "faulty", NoConfig

    def edit(self, lm, requests):
        raise NotImplementedError


class NoConfigClass(NoSummary):
    summary = "x"
    Config = None


class NoMethod(Editor[NoConfig]):
    name, summary, Config = "faulty", "x", NoConfig


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("NoSummary", "has no attribute 'summary'"),
        ("NoConfigClass", "Config None"),
        ("NoMethod", "has no method 'edit'"),
        ("towns", "is not a subclass of knbench.benchmark.Editor"),
        ("Push", "has name 'push'"),
        ("absent", "cannot be imported"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_named_and_the_others_remain(monkeypatch, capsys, value, part):
    faulty = EntryPoint("faulty", f"{__name__}:{value}", registry.EDITORS)
    good = EntryPoint("push", f"{Push.__module__}:Push", registry.EDITORS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [faulty, good] if group == registry.EDITORS else [])
    registry._warned.clear()
    assert list(editor_classes()) == ["push"]
    assert part in capsys.readouterr().err
    with pytest.raises(KnbenchError, match="'faulty'") as caught:
        editor_class("faulty")
    assert part in str(caught.value)
