"""A run that independent jobs measure in parts has the records of one process after the union."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.running.executors import ExecutorConfig, open_executor
from knbench.benchmark.running.plan import Plan, units_of
from knbench.benchmark.running.runner import execute
from knbench.benchmark.running.shards import Shard, merge
from knbench.editors.none import NoEdit

from tests.conftest import called
from tests.files import load_result
from tests.workers import Push, measured, run_with, spec

SETTINGS = RunSettings(batch_size=32, new_tokens=0, split="all")


def run_shard(run_spec, output, text):
    shard = Shard.parse(text)
    with open_executor(ExecutorConfig("serial", threads=1)) as start:
        return execute(start(run_spec), output / shard.folder, run_spec.settings, Reporter(), shard=shard)


@pytest.mark.parametrize("change", [{}, {"batch_edits": 5}, {"sequential": 10, "checkpoints": (5,)}])
def test_united_parts_equal_the_run_of_one_process(change, tmp_path):
    run_spec = spec(replace(SETTINGS, **change), NoEdit, Push, cases=20)
    whole = run_with("serial", run_spec, tmp_path / "whole")
    for text in ("1/3", "2/3"):
        assert run_shard(run_spec, tmp_path / "parts", text) == []
    with pytest.raises(KnbenchError, match=r"cases \(.* missing.*; wait for the missing jobs or start them again"):
        merge([tmp_path / "parts"], tmp_path / "parts")
    run_shard(run_spec, tmp_path / "parts", "3/3")
    runs = merge([tmp_path / "parts"], tmp_path / "parts")
    assert [run.folder for run in runs] == [tmp_path / "parts" / name / "towns" for name in ("none", "push")]
    files = [("records.jsonl", "record")] + [("checkpoints.jsonl", "checkpoint")] * ("sequential" in change)
    for one, run in zip(whole, runs, strict=True):
        assert all(measured(one, *file) == measured(run.folder, *file) for file in files)
        assert load_result(one / "result.json")["summary"] == load_result(run.folder / "result.json")["summary"]
    assert [run.folder for run in merge([tmp_path / "parts"], tmp_path / "parts")] == [run.folder for run in runs]


def test_parts_of_different_runs_are_refused(tmp_path):
    run_shard(spec(SETTINGS, NoEdit, cases=20), tmp_path, "1/2")
    run_shard(spec(replace(SETTINGS, seed=1), NoEdit, cases=20), tmp_path, "2/2")
    with pytest.raises(KnbenchError, match=r"shard-2-of-2.* are not parts of one run: they differ in seed"):
        merge([tmp_path], tmp_path)


def test_every_unit_belongs_to_one_part():
    plan = Plan({}, {"towns": [str(i) for i in range(100)]}, {"one": 1, "three": 3}, {})
    units = units_of(plan, SETTINGS)
    for count in (1, 2, 7, 64):
        parts = [Shard(number, count).of(units) for number in range(1, count + 1)]
        assert [unit for part in parts for unit in part] == units
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3", "--shard '3': use I/N, for example 3/8 for the third of eight jobs"),
        ("0/4", "--shard 0/4: use a number from 1 to 4 before the slash"),
        ("5/4", "--shard 5/4: use a number from 1 to 4 before the slash"),
    ],
)
def test_a_part_that_does_not_exist_is_one_line(text, said, capsys, tmp_path):
    status, _, err = called(capsys, "run", "--tasks", "capital", "--shard", text, "--output", tmp_path / "out")
    assert (status, err.strip()) == (2, f"knbench: {said}")
    assert not (tmp_path / "out").exists()


def test_the_commands_measure_and_unite_parts(capsys, tmp_path):
    arguments = ["run", "--model", "toy-gpt2", "--editors", "none", "--tasks", "capital", "--limit", "9", "--output"]
    for text in ("1/2", "2/2"):
        status, out, err = called(capsys, *arguments, tmp_path / "parts", "--shard", text)
        assert (status, out) == (0, "")
        assert f"knbench merge {tmp_path / 'parts'}" in err
    assert called(capsys, *arguments, tmp_path / "whole")[0] == 0
    shutil.move(tmp_path / "parts/shard-2-of-2", tmp_path / "other")
    status, _, err = called(capsys, "merge", tmp_path / "parts", tmp_path / "other")
    assert (status, err.strip()) == (
        2,
        "knbench: several folders are merged; choose a folder for the result with --output",
    )
    status, out, _ = called(capsys, "merge", tmp_path / "parts", tmp_path / "other", "--output", tmp_path / "united")
    assert (status, out.strip()) == (0, f"{tmp_path / 'united/none/capital'}: 9 cases")
    assert measured(tmp_path / "united/none/capital") == measured(tmp_path / "whole/none/capital")
