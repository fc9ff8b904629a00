"""Texts beyond a model's positions: the case fails as unreadable, and the run continues."""

from __future__ import annotations

from dataclasses import replace

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit
from knbench.benchmark.probing.positions import max_positions
from knbench.editors.none import NoEdit

from tests.conftest import make_lm
from tests.files import json_lines, load_result
from tests.files import run_folders as run
from tests.workers import Push, towns

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
LONG = "Rome is the capital of Italy. " * 80


def with_long_case(where):
    """Return a task whose second case has a long text in its edit prompt, in a probe's prompt or in its target."""
    task = towns(3)
    case = task.cases[1]
    probes = case.probes
    if where == "request":
        case = replace(case, request=replace(case.request, prompt=LONG + case.request.prompt))
    elif where == "prompt":
        case = replace(case, probes=(replace(probes[0], prompt=LONG + probes[0].prompt), *probes[1:]))
    elif where == "target":
        case = replace(case, probes=(replace(probes[0], target=LONG.strip()), *probes[1:]))
    return replace(task, cases=(task.cases[0], case, task.cases[2]))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("where", ["request", "prompt", "target"])
def test_a_case_beyond_the_positions_is_unreadable_and_the_run_continues(tmp_path, kind, where):
    lm = make_lm(kind)
    assert max_positions(lm) == 128
    (folder,) = run(lm, [NoEdit], [with_long_case(where)], tmp_path, SETTINGS)
    first, second, third = (r["failure"] for r in json_lines(folder / "records.jsonl"))
    assert first is third is None
    assert (second["phase"], second["type"]) == ("tokenise", "ValueError")
    assert "the model has 128 positions" in second["message"]
    assert load_result(folder / "result.json")["records"]["failed"] == 1


def test_a_continuation_beyond_the_positions_makes_a_case_unreadable(tmp_path):
    lm = make_lm("gpt2")
    case = towns(1).cases[0]
    lead = lm.encode(case.request.text).ids
    (fits,) = run(lm, [NoEdit], [towns(1)], tmp_path / "a", replace(SETTINGS, new_tokens=129 - len(lead)))
    (beyond,) = run(lm, [NoEdit], [towns(1)], tmp_path / "b", replace(SETTINGS, new_tokens=130 - len(lead)))
    failures = [json_lines(folder / "records.jsonl")[0]["failure"] for folder in (fits, beyond)]
    assert failures[0] is None
    assert "are generated; the model has 128 positions" in failures[1]["message"]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_fluency_beyond_the_positions_is_refused_before_the_run(tmp_path, kind):
    lm = make_lm(kind)
    with pytest.raises(
        KnbenchError, match=r"^--fluency-tokens 128: .* has 128 positions, .*; use at most \d+$"
    ) as caught:
        run(lm, [NoEdit], [towns(2)], tmp_path / "a", replace(SETTINGS, fluency_tokens=128))
    assert not (tmp_path / "a").exists()
    most = int(str(caught.value).rsplit(" ", 1)[1])
    (folder,) = run(lm, [NoEdit], [towns(2)], tmp_path / "b", replace(SETTINGS, fluency_tokens=most))
    assert load_result(folder / "result.json")["records"]["failed"] == 0


def test_a_prefix_beyond_the_positions_fails_the_edit(tmp_path):
    class Prefixed(Push):
        def edit(self, lm, requests):
            return Edit(prefix=LONG if requests[0].subject == "Italy 1" else "Rome is here. ")

    (folder,) = run(make_lm("gpt2"), [Prefixed], [towns(3)], tmp_path, SETTINGS)
    failures = [r["failure"] and r["failure"]["type"] for r in json_lines(folder / "records.jsonl")]
    assert failures == [None, "PrefixError", None]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_text_of_an_editor_beyond_the_positions_is_named(tmp_path, kind):
    class Long(Push):
        def prepare(self, lm, reporter):
            lm.model(input_ids=lm.pad([lm.encode(LONG).ids]).ids)
            return {}

    with pytest.raises(KnbenchError, match=r"'push' cannot be prepared: a text .*'Rome is the .* has 128 positions"):
        run(make_lm(kind), [Long], [towns(1)], tmp_path, SETTINGS)
