"""Every editor on the toy models through the command line; unsupported editors are reported, failures recorded."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from knbench.benchmark.commands.main import knbench
from knbench.benchmark.core import registry
from knbench.benchmark.editing import editor_classes
from knbench.benchmark.results.runs import find_runs

pytestmark = pytest.mark.slow
TASKS = "capital,det-noun-agreement"


def run(model, editors, output):
    arguments = ["run", "--model", model, "--editors", editors, "--tasks", TASKS, "--limit", "3", "--known-only"]
    arguments += ["--editor-args", "mend.steps=5"]  # enough to run; the training has its own tests
    done = CliRunner().invoke(knbench, [*arguments, "--output", str(output), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    results = {(r.result.editor.name, r.result.task.name): r.result for r in find_runs([output])}
    assert len(results) == len(rows)
    return results, done.stderr


def reliability(result):
    return next(row.value for row in result.summary if (row.criterion, row.measure) == ("reliability", "success"))


def test_every_editor_runs_on_a_causal_toy(tmp_path):
    results, _ = run("toy-gpt2", "all", tmp_path)
    assert {name for name, _ in results} == set(registry.registered(registry.EDITORS))
    assert not {(name, r.task.kind) for (name, _), r in results.items() if r.records.failed}
    assert reliability(results["none", "capital"]) == 0
    # The generic hyper-parameters of these two suit the toy's size. Those of the others do not, but the editors run.
    for name in ("kn", "lora"):
        assert reliability(results[name, "capital"]) == 1, name


def test_editors_of_masked_models_run_on_a_masked_toy(tmp_path):
    results, stderr = run("toy-bert", "all", tmp_path)
    assert {"none", "in-context", "kn", "ft", "ft-l", "ft-w", "lora"} <= {name for name, _ in results}
    causal_only = {name for name, cls in editor_classes().items() if cls.causal_only}
    assert {"alphaedit", "blue", "emmet", "encore", "memit", "memit-seq", "r-rome", "random", "rome"} <= causal_only
    assert not causal_only & {name for name, _ in results}
    assert f"left out, because they need a causal model: {', '.join(sorted(causal_only))}" in stderr
    assert {r.records.failed for r in results.values()} == {0}
    assert reliability(results["none", "capital"]) == 0
    assert reliability(results["lora", "capital"]) == 1
