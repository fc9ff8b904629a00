"""``--probes distractor,negation``: what is asked, stored, compared and left out of the score."""

from __future__ import annotations

import dataclasses

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.extra_probes import EXTRA_PROBES, extra_probes
from knbench.benchmark.core.records import Record, from_json
from knbench.benchmark.core.schema import Case, EditRequest, Probe
from knbench.benchmark.results.audit import check_task
from knbench.benchmark.results.documents import comparable, load_result
from knbench.editors.none import NoEdit

from tests.files import json_lines, rescore
from tests.files import run_folders as run
from tests.integration.running.test_runner import SETTINGS, case, task


def test_the_probes_of_a_case_worked_by_hand():
    request = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
    kept = Probe("neighbourhood", "completion", "The capital of Peru is", "Lima", "Rome", "unchanged", ("L.",))
    pair = Probe("neighbourhood", "minimal_pair", "", "He sleeps.", "He sleep.", "unchanged")
    asked = Case("c", request, (Probe("reliability", "completion", request.text, "Rome", "Ottawa", "new"), kept, pair))
    truth = "Question: Is it true that The capital of Canada is {}? Answer:".format
    distractor = dataclasses.replace(
        kept, criterion="distractor", prompt="The capital of Canada is Rome. The capital of Peru is"
    )
    negations = (
        Probe("negation", "completion", truth("Rome"), "yes", "no", "new"),
        Probe("negation", "completion", truth("Ottawa"), "no", "yes", "new"),
    )
    assert extra_probes(asked, EXTRA_PROBES) == (distractor, *negations)
    assert extra_probes(asked, ("negation",)) == negations
    new = dataclasses.replace(asked, request=dataclasses.replace(request, target_true=""))
    assert extra_probes(new, ("negation",)) == negations[:1]
    assert extra_probes(asked, ()) == ()


def test_they_are_measured_and_stored_and_do_not_change_the_score(lm, tmp_path):
    own = dataclasses.replace(task(), cases=(case("Canada"), case("Mexico")))
    settings = dataclasses.replace(SETTINGS, probes=("distractor", "negation"))
    (plain,) = run(lm, [NoEdit], [own], tmp_path / "plain", SETTINGS)
    (added,) = run(lm, [NoEdit], [own], tmp_path / "added", settings)
    first, second = (load_result(folder / "result.json") for folder in (plain, added))
    assert (first.protocol.probes, second.protocol.probes) == (None, ("distractor", "negation"))
    assert {row.criterion for row in second.summary} - {row.criterion for row in first.summary} == {
        "distractor", "negation",
    }  # fmt: skip
    # Other texts in a pass change its rounding.
    scores = [(s.value, s.gain, s.preservation, *s.kept.values()) for s in (first.edit_score, second.edit_score)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)
    assert comparable(first) == comparable(second)
    assert rescore(added)["summary"]
    lines = json_lines(added / "records.jsonl")
    check_task("here", second, [from_json(line, Record) for line in lines], own)
    lines[0]["probes"] = [probe for probe in lines[0]["probes"] if probe["criterion"] != "negation"]
    with pytest.raises(KnbenchError, match="lacks 2 of the task's probes"):
        check_task("here", second, [from_json(line, Record) for line in lines], own)
