"""The editor ``none`` on complete built-in tasks: an edit that changes nothing cannot fail."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from knbench.benchmark.commands.main import knbench
from knbench.benchmark.core import registry

pytestmark = [pytest.mark.slow, pytest.mark.long]

QUICK = ("anaphor-gender",)
"""A task of 200 cases. It takes about a minute on each model; the others have the marker ``long``."""
OTHERS = sorted({task.name for task in registry.tasks().values() if task.cases} - set(QUICK))


def check_control(model, tasks, output):
    """Run the control on every case of some tasks, and check that none failed."""
    arguments = ["run", "--model", model, "--editors", "none", "--tasks", ",".join(tasks), "--split", "all", "--json"]
    done = CliRunner().invoke(knbench, [*arguments, "--output", str(output)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    found = {row["task"]["name"]: row["records"] for row in json.loads(done.stdout)}
    assert set(found) == set(tasks)
    for task in tasks:
        assert (found[task]["failed"], found[task]["failures"]) == (0, {}), task
        assert found[task]["cases"] == len(registry.task(task).cases), task


@pytest.mark.parametrize("model", ["toy-bert", "toy-gpt2"])
def test_the_control_never_fails(model, tmp_path):
    check_control(model, QUICK, tmp_path)


@pytest.mark.parametrize("task", OTHERS)
@pytest.mark.parametrize("model", ["toy-bert", "toy-gpt2"])
def test_the_control_never_fails_on_the_other_tasks(model, task, tmp_path):
    check_control(model, [task], tmp_path)
