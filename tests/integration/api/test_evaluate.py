"""``evaluate``, its results, run files and progress, on a tiny model."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import sys
import types

import knbench.benchmark.api
import pytest
from knbench.benchmark import RunConfig, evaluate, load_results
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.records import to_json
from knbench.benchmark.models.devices import resolve_batch_size, resolve_device
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.results.documents import manifest_of

from tests.conftest import called

MODULES = [name for _, name, _ in pkgutil.iter_modules(knbench.benchmark.api.__path__)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two editors on two cases, from objects in memory."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    return evaluate(untrained("gpt2"), ["none", "ft"], ["capital"], limit=2, output=folder)


def test_rows_are_those_of_the_stored_files(results):
    folder = results[0].folder.parents[1]
    assert [row["editor"] for row in results.summary()] == ["none", "ft"]
    stored = json.loads((folder / "ft" / "capital" / "result.json").read_text(encoding="utf-8"))
    assert results.summary()[1]["edit_score"] == stored["edit_score"]["value"]
    scores = [row for row in results.scores() if row["editor"] == "ft"]
    assert [row["value"] for row in scores] == [row["value"] for row in stored["summary"]]
    lines = (folder / "ft" / "capital" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    probes = [probe for line in lines for probe in json.loads(line)["probes"]]
    rows = [row for row in results.records() if row["editor"] == "ft"]
    assert [row["prompt"] for row in rows] == [probe["prompt"] for probe in probes]
    assert [row["target_logprob_after"] for row in rows if row["target_logprob_after"] is not None] == [
        probe["after"]["target"]["logprob"] for probe in probes if "target" in probe["after"]
    ]
    reliability = [row["success"] for row in rows if row["criterion"] == "reliability"]
    value = next(s["value"] for s in scores if (s["criterion"], s["measure"]) == ("reliability", "success"))
    assert sum(reliability) / len(reliability) == value
    again = load_results(folder).records()
    assert sorted(again, key=lambda row: row["editor"] != "none") == results.records()


def test_frames_have_a_row_per_row(results):
    frame = results.to_frame("records")
    assert frame.shape == (len(results.records()), len(results.records()[0]))
    assert list(results.to_frame()["editor"]) == ["none", "ft"]
    with pytest.raises(KnbenchError, match=r"unknown kind of rows 'record'; did you mean 'records'\?"):
        results.to_frame("record")
    with pytest.raises(KnbenchError, match="unknown library 'dask'"):
        results.to_frame(library="dask")


def test_frames_of_polars_read_all_rows_before_they_type_a_column(results, monkeypatch):
    made = {}
    fake = types.ModuleType("polars")
    fake.DataFrame = lambda rows, **options: made.update(rows=rows, **options)
    monkeypatch.setitem(sys.modules, "polars", fake)
    results.to_frame("records", library="polars")
    assert made == {"rows": results.records(), "infer_schema_length": None}
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(KnbenchError, match="data frames need polars; install it with: pip install polars"):
        results.to_frame(library="polars")


def test_results_are_printed_as_a_table(results):
    assert str(results).splitlines()[0].split()[:3] == ["model", "editor", "task"]
    assert results._repr_html_().count("<tr>") == 3
    assert "none on capital" in repr(results)


def test_files_without_an_output_live_as_long_as_the_results():
    found = evaluate(untrained("gpt2"), "none", "capital", limit=1)
    folder = found.temporary
    assert len(found.records()) > 5
    del found
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("toy-gpt3", "none", "capital"), {}, "unknown model 'toy-gpt3'; did you mean 'toy-gpt2'"),
        (("toy-gpt2", "nnoe", "capital"), {}, "unknown editor 'nnoe'"),
        (("toy-gpt2", "none", "captial"), {}, "unknown task 'captial'"),
        (("toy-gpt2", "none"), {}, "no task given"),
        (("toy-gpt2", [], "capital"), {}, "no editor given"),
        (("toy-gpt2", "none", "capital"), {"limits": 1}, "unknown name in the settings 'limits'; did you mean 'limit'"),
        (("toy-gpt2", "none", "capital"), {"limit": "1"}, "limit is '1'; expected a whole number"),
        ((object(), "none", "capital"), {}, "model is a object; use a name"),
    ],
)
def test_a_wrong_call_is_refused(arguments, settings, message):
    with pytest.raises(KnbenchError, match=message):
        evaluate(*arguments, **settings)


def test_a_manifest_runs_again_with_the_same_manifest(capsys, tmp_path):
    first = evaluate(
        "toy-gpt2",
        ["ft"],
        ["capital"],
        limit=3,
        sequential=2,
        seed=5,
        editor_args={"ft": {"layer": 2, "steps": 1}},
        output=tmp_path / "first",
    )
    config = RunConfig.from_manifest(manifest_of(first[0].result))
    assert config.editor_args == {"ft": {"layer": 2, "steps": 1}}
    path = first[0].folder / "manifest.json"
    assert RunConfig.from_file(path) == config == RunConfig.from_file(first[0].result_path)
    status, _, err = called(capsys, "run", "--config", path, "--output", tmp_path / "again", "--quiet")
    assert (status, err) == (0, "")
    (again,) = load_results(tmp_path / "again")
    old, new = to_json(manifest_of(first[0].result)), to_json(manifest_of(again.result))
    command = new["environment"].pop("command")
    assert (new, again.result.summary) == (old, first[0].result.summary)
    assert command.startswith("knbench run --model toy-gpt2 --editors ft --tasks capital --split test")
    assert "--config" not in command


def test_flags_override_a_run_file(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: toy-gpt2\neditors: [none, ft]\ntasks: capital\nlimit: 9\neditor-args: {ft: {steps: 1}}\n")
    status, out, _ = called(capsys, "run", "--config", file, "--limit", "1", "--print-config")
    assert status == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    config = RunConfig.from_file(printed)
    assert (config.limit, config.editors, config.tasks) == (1, ("none", "ft"), ("capital",))
    assert config.editor_args == {"ft": {"steps": "1"}}
    file.write_text("modle: toy-gpt2\n")
    status, _, err = called(capsys, "run", "--config", file, "--print-config")
    assert status == 2
    assert err.count("\n") == 1
    assert "unknown name in" in err
    assert "did you mean 'model'?" in err


def test_a_device_is_chosen_from_the_machine(monkeypatch):
    import torch

    assert resolve_device("cuda:1") == "cuda:1"
    monkeypatch.setattr("knbench.benchmark.models.devices.sys.platform", "darwin")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device() == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device() == "cpu"
    for gigabytes, size in ((1, 32), (10, 64), (24, 128), (80, 256)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, g=gigabytes: (g << 30, 80 << 30))
        assert resolve_batch_size("auto", "cuda") == size
    assert (resolve_batch_size("auto", "cpu"), resolve_batch_size(7, "cuda")) == (32, 7)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"knbench.benchmark.api.{name}")
    assert doctest.testmod(module).failed == 0
