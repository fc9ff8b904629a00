"""Runs of methods beside the weights: every regime, resumption, sizes, and what records say about recalled texts."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.records import Observation, from_json, to_json
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, Editor, NoConfig, Recall, TrainingCase
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.results import documents
from knbench.benchmark.results.agreement import record_difference
from knbench.benchmark.results.completeness import incomplete
from knbench.benchmark.results.io import RECORD
from knbench.benchmark.results.plausibility import implausible
from knbench.benchmark.results.record_texts import text_flaw
from knbench.benchmark.running import evaluator, preparation
from knbench.editors.grace import Grace

from tests.conftest import called
from tests.files import json_lines, load_result
from tests.files import run_folders as run
from tests.integration.running.test_runner import NAMES, task

GRACE = {"grace": {"layer": "2", "radius": "0.5", "steps": "2"}}
SETTINGS = RunSettings(batch_size=8, new_tokens=2, editor_args=GRACE)


@pytest.fixture(scope="module")
def lm():
    return untrained("llama", 0)


@dataclass(frozen=True)
class Last(Recall):
    def preface(self, lm, prompt):
        return f"{self.texts[-1]}. "


class Says(Editor[NoConfig]):
    """Recalls the last fact before every prompt."""

    name, summary, Config, kind = "says", "for tests", NoConfig, "context"

    def edit(self, lm, requests):
        earlier = lm.recall.texts if lm.recall else ()
        return Edit(recall=Last((*earlier, *(request.text for request in requests))))


class Learns(Says):
    """Is trained on cases that it counts, and takes longer each time."""

    name, trains, seconds = "learns", True, itertools.count(1)

    def train(self, lm, cases, reporter):
        return {"cases": len(cases), "seconds": next(self.seconds)}


def records_of(folder):
    return json_lines(folder / "records.jsonl")


def test_a_memory_runs_in_every_regime_and_counts_its_facts(lm, tmp_path):
    single, batch, sequence = (
        records_of(run(lm, [Grace], [task()], tmp_path / name, replace(SETTINGS, **values))[0])
        for name, values in (("single", {}), ("batch", {"batch_edits": 2}), ("sequence", {"sequential": 4}))
    )
    assert {record["failure"] for record in (*single, *batch, *sequence)} == {None}
    assert [record["edit"]["size"]["entries"] for record in sequence] == [1, 2, 3, 4]
    assert {record["edit"]["size"]["entries"] for record in single} == {1}
    assert {record["edit"]["size"]["entries"] for record in batch} == {2}
    assert len({record["edit"]["state"] for record in sequence}) == 4
    assert all(record["timings"]["unedited_seconds"] > 0 for record in single)
    assert all(record["edit"]["modules"] == ["model.layers.2.mlp.down_proj"] for record in single)


def test_a_stopped_sequence_continues_with_the_same_memories(lm, tmp_path):
    class Stops(Grace):
        calls = 0

        def edit_next(self, lm, requests, earlier, state=None):
            Stops.calls += bool(earlier)
            if Stops.calls == 2:
                raise KeyboardInterrupt
            return super().edit_next(lm, requests, earlier, state)

    settings = replace(SETTINGS, sequential=3)
    (whole,) = run(lm, [Grace], [task()], tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [task()], tmp_path / "parts", settings)
    (continued,) = run(lm, [Grace], [task()], tmp_path / "parts", settings)
    first, second = ([(r["edit"]["state"], r["probes"]) for r in records_of(folder)] for folder in (whole, continued))
    assert first == second


def test_recalled_texts_are_recorded_compared_and_checked(lm, tmp_path):
    (folder,) = run(lm, [Says], [task()], tmp_path, SETTINGS)
    records = [RECORD.decode(record) for record in records_of(folder)]
    asked = [p for p in records[0].probes if p.kind == "completion"]
    assert {p.after.recalled for p in asked} == {f"{records[0].request.prompt.format(records[0].request.subject)}. "}
    assert {p.before.recalled for p in asked} == {None}

    def changed(record, text):
        probes = tuple(
            replace(p, after=from_json({**to_json(p.after), "recalled": text}, Observation)) if p in asked else p
            for p in record.probes
        )
        return type(record)(**{name: getattr(record, name) for name in record.__struct_fields__} | {"probes": probes})

    assert record_difference(records[0], records[0], {}) is None
    assert incomplete(records, []) is None  # some observations have a recalled text, and others none
    other = record_difference(records[0], changed(records[0], "Rome. "), {})
    assert "the text before the prompt" in other.text
    assert text_flaw([records[0]]) is None
    assert "recalled has the control" in text_flaw([changed(records[0], "Rome\x1b[0m")])


def test_results_of_methods_beside_the_weights_are_submitted_and_valid(lm, tmp_path, capsys):
    card = tmp_path / "CARD.md"
    card.write_text("# A method\n\nA description.\n")
    for editor in (Says, Grace):
        (folder,) = run(lm, [editor], [task()], tmp_path / "runs", SETTINGS)
        status, out, errors = called(capsys, "submit", folder, "--card", card, "--results", tmp_path / "results")
        assert status == 0, out + errors
    # Without the recalled texts, nothing explains the other answers.
    result = documents.load_result(tmp_path / "runs" / "says" / task().name / "result.json")
    records = [to_json(RECORD.decode(record)) for record in records_of(tmp_path / "runs" / "says" / task().name)]
    for probe in (probe for record in records for probe in record["probes"]):
        probe["after"].pop("recalled", None)
    flaw = implausible(result, [RECORD.decode(record) for record in records], [])
    assert flaw == "/0/edit names no parameter, module or text, and yet answers changed without a recalled text"


def test_a_method_is_trained_once_and_not_scored_on_its_subjects(lm, tmp_path, monkeypatch):
    request = task().cases[0].request
    own = TrainingCase("other", replace(request, subject="Nowhere"), (), ())
    for module in (evaluator, preparation):
        monkeypatch.setattr(module, "training_cases", lambda *_: [own, own])
    (folder,) = run(lm, [Learns], [task()], tmp_path / "a", SETTINGS)
    editor = json.loads((folder / "manifest.json").read_text())["editor"]
    assert (editor["prepared"]["training"], editor["trains"]) == ({"cases": 2}, True)
    assert load_result(folder / "result.json")["editor"]["training_seconds"] == editor["training_seconds"] >= 1
    run(lm, [Learns], [task()], tmp_path / "a", SETTINGS)  # continues, although the training took longer
    own = TrainingCase("other", request, (), ())
    with pytest.raises(KnbenchError, match=f"trained on the subject '{NAMES[0]}'"):
        run(lm, [Learns], [task()], tmp_path / "b", SETTINGS)
