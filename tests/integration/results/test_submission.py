"""Submission: which runs are stored, and their names in the store. Needs no model."""

from __future__ import annotations

import json

import msgspec
import pytest
from knbench.benchmark.core.files import write_json
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.io import lines_text
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.results.store import location_of

from tests import factories
from tests.conftest import called


def write_run(folder, editor="rome", task="own", finished=True, config=None, seed=0, version="0.1.0", **protocol):
    """Write a run folder with two records, and return it."""
    manifest = factories.manifest(editor, task, cases=2, **protocol)
    card = msgspec.structs.replace(manifest.editor, config=config or {})
    manifest = msgspec.structs.replace(manifest, editor=card, seed=seed, benchmark_version=version)
    records = []
    for i, logprob in enumerate((-1.0, -1.5)):
        before, after = (factories.observation(x, x, top_logprob=x) for x in (-1.0, logprob))
        records.append(factories.record(i, [factories.probe("reliability", after, before=before)]))
    folder = folder / editor / task
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", to_json(manifest))
    (folder / "records.jsonl").write_text(lines_text(records[: 2 if finished else 1]))
    if finished:
        write_json(folder / "result.json", to_json(score_files(manifest, lambda name: folder / name)))
    return folder


@pytest.fixture
def submit(tmp_path, capsys):
    """Return a function that submits folders with a card, and returns status, stdout and stderr."""
    card = tmp_path / "CARD.md"
    card.write_text("# A method\n\nA description.\n")
    return lambda *folders: called(capsys, "submit", *folders, "--card", card, "--results", tmp_path / "store")


def stored(tmp_path):
    return sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_a_task_that_is_not_installed_is_named(tmp_path, submit):
    write_run(tmp_path / "runs")
    status, out, err = submit(tmp_path / "runs")
    assert status == 0, out + err
    assert "own.json: task 'own' is not installed; the questions were not checked" in out


def test_a_method_may_have_a_card_and_no_result_yet(tmp_path, submit):
    card = tmp_path / "store" / "rome" / "card.md"
    card.parent.mkdir(parents=True)
    card.write_text("# A method\n\nA description.\n")
    write_run(tmp_path / "runs")
    status, out, err = submit(tmp_path / "runs")
    assert status == 0, out + err


@pytest.mark.parametrize("editors", [("none", "ft"), ("ft", "ft"), ("none", "none")])
def test_an_unfinished_run_is_named_and_nothing_is_stored(tmp_path, submit, editors):
    done, not_done = editors
    write_run(tmp_path / "runs", editor=done)
    unfinished = write_run(tmp_path / "runs", editor=not_done, task="other", finished=False)
    status, _, err = submit(tmp_path / "runs")
    assert status == 2
    assert f"{unfinished} is not finished" in err
    assert stored(tmp_path) == []
    assert submit(tmp_path / "runs" / done / "own")[0] == 0


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"limit": 2}, "limited to 2 cases; run it without --limit"),
        ({"split": "tune"}, "cases of split 'tune'; run it with --split test"),
        ({"split": "all"}, "cases of split 'all'"),
    ],
)
def test_limited_runs_and_tuning_cases_are_refused(tmp_path, submit, capsys, protocol, message):
    folder = write_run(tmp_path / "runs", **protocol)
    status, _, err = submit(tmp_path / "runs")
    assert (status, message in err, stored(tmp_path)) == (2, True, [])
    # A file that was placed in the store by hand is refused as well.
    good = write_run(tmp_path / "good")
    assert submit(good)[0] == 0
    (path,) = (tmp_path / "store").rglob("own.json")
    path.write_bytes((folder / "result.json").read_bytes())
    status, out, _ = called(capsys, "validate", tmp_path / "store")
    assert (status, message in out) == (2, True)


def test_a_method_that_is_tuned_per_task_is_refused(tmp_path, submit, capsys):
    write_run(tmp_path / "a", task="one", config={"layer": 3})
    write_run(tmp_path / "b", task="two", config={"layer": 7})
    status, _, err = submit(tmp_path / "a", tmp_path / "b")
    assert status == 2
    assert "has other settings of 'rome'" in err
    assert "(layer: 3 and 7)" in err
    assert stored(tmp_path) == []
    assert submit(tmp_path / "a")[0] == 0
    status, _, err = submit(tmp_path / "b")  # also against what the store holds
    assert (status, "(layer: 3 and 7)" in err) == (2, True)
    write_run(tmp_path / "c", task="two", config={"layer": 7}, seed=1)  # other conditions: another row of the board
    assert submit(tmp_path / "c")[0] == 0


def test_two_settings_on_one_task_are_refused(tmp_path, submit):
    write_run(tmp_path / "a", config={"layer": 3})
    write_run(tmp_path / "b", config={"layer": 7})
    assert submit(tmp_path / "a")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    status, _, err = submit(tmp_path / "b")
    assert (status, "(layer: 3 and 7)" in err) == (2, True)
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("file", ["manifest.json", "result.json", "records.jsonl"])
def test_a_run_folder_with_a_missing_or_changed_file_is_not_stored(tmp_path, submit, file):
    folder = write_run(tmp_path / "runs")
    (folder / file).unlink()
    write_run(tmp_path / "runs", task="other")
    status, _, err = submit(tmp_path / "runs")
    assert (status, str(folder) in err, stored(tmp_path)) == (2, True, [])


def test_results_of_each_release_series_have_their_own_name():
    def name(version, task=2):
        result = msgspec.structs.replace(factories.result(), benchmark_version=version)
        return location_of(msgspec.structs.replace(result, task=msgspec.structs.replace(result.task, version=task)))[1]

    versions = ("0.1.0", "0.2.0", "0.3.0.dev1", "1.0", "x/../y")
    assert [name(version) for version in versions] == [
        "capital", "capital.v2", "capital.v2.benchmark-0.3", "capital.v2.benchmark-1.0", "capital.v2.benchmark-x-..-y",
    ]  # fmt: skip
    assert [name("0.2.1", task) for task in (1, 2, 3)] == ["capital", "capital.v2", "capital.v3"]


def test_each_setting_of_the_protocol_has_its_own_name():
    def name(seed=0, dtype="float32", **protocol):
        result = factories.result(**protocol)
        model = msgspec.structs.replace(result.model, dtype=dtype)
        return location_of(msgspec.structs.replace(result, seed=seed, model=model))[1]

    lite = {"subset": "lite", "known_only": True, "known_by": "success"}
    assert name() == "capital"
    assert name(**lite) == "capital.lite"
    names = [
        name(),
        name(**lite),
        name(**{**lite, "known_by": "exact"}),
        name(subset="lite"),
        name(known_only=True, known_by="success"),
        name(limit=5),
        name(limit=7),
        name(split="tune"),
        name(split="all"),
        name(seed=1),
        name(seed=2),
        name(bos="never"),
        name(dtype="bfloat16"),
        name(regime="batch", batch_edits=4),
        name(**{**lite, "regime": "batch", "batch_edits": 4}),
        name(regime="sequential", checkpoints=()),
    ]
    assert len(set(names)) == len(names)


BROKEN = {
    "no protocol": lambda d: d.pop("protocol"),
    "no number of cases": lambda d: d["protocol"].pop("cases"),
    "a protocol that is a list": lambda d: d.update(protocol=[1]),
    "no model": lambda d: d.pop("model"),
    "cases as text": lambda d: d["protocol"].update(cases="two"),
    "no editor name": lambda d: d["editor"].pop("name"),
    "task null": lambda d: d.update(task=None),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", ["score", "status"])
def test_an_incomplete_manifest_is_named_in_one_line(tmp_path, capsys, command, name):
    path = write_run(tmp_path / "runs") / "manifest.json"
    document = json.loads(path.read_text())
    BROKEN[name](document)
    path.write_text(json.dumps(document))
    status, _, err = called(capsys, command, tmp_path / "runs")
    assert (status, err.count("\n"), str(path) in err) == (2, 1, True), err


@pytest.mark.parametrize("text", ["[1, 2]", "null", "3", '"x"', "", '{"schema_version": 1, "mod', "[" * 100_000])
@pytest.mark.parametrize("command", ["score", "status"])
def test_another_document_as_manifest_is_named_in_one_line(tmp_path, capsys, command, text):
    path = write_run(tmp_path / "runs") / "manifest.json"
    path.write_text(text)
    status, _, err = called(capsys, command, tmp_path / "runs")
    assert (status, err.count("\n"), str(path) in err) == (2, 1, True), err
    assert "knbench score again" not in err


@pytest.mark.parametrize("kept", [("result.json", "records.jsonl"), ("records.jsonl",), ("result.json",)])
def test_score_names_a_folder_without_manifest(tmp_path, capsys, kept):
    write_run(tmp_path / "runs", task="other")
    folder = write_run(tmp_path / "runs")
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    status, _, err = called(capsys, "score", tmp_path / "runs")
    assert (status, f"{folder}: holds {' and '.join(kept)} and no manifest.json" in err) == (2, True)
    status, out, err = called(capsys, "status", tmp_path / "runs")
    assert (status, "other" in out, f"{folder} has no manifest.json" in err) == (0, True, True)


def test_a_broken_result_is_written_again_as_advised(tmp_path, capsys):
    folder = write_run(tmp_path / "runs")
    (folder / "result.json").write_text("{")
    status, _, err = called(capsys, "score", folder)
    assert (status, f"delete it and run: knbench score {folder}" in err) == (2, True)
    (folder / "result.json").unlink()
    assert called(capsys, "score", folder)[0] == 0
    assert (folder / "result.json").exists()
