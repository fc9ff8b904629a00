"""The scripts of the workflow for submissions, executed without GitHub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import knbench

WORKFLOWS = Path(__file__).parents[2] / ".github/workflows"


def steps(workflow):
    """Return the scripts of a workflow's only job by step name."""
    (job,) = yaml.safe_load((WORKFLOWS / workflow).read_text())["jobs"].values()
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step and "name" in step}


@pytest.fixture(scope="module")
def runs(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--tasks", "anaphor-gender", "--subset", "lite", "--editors", "none,in-context", "--output", folder]
    assert knbench("run", "--model", model_folder, *arguments) == 0
    return folder


@pytest.fixture
def pull_request(runs, tmp_path):
    """A results store as on the main branch, and next to it a submitted store with one more method."""
    (tmp_path / "card.md").write_text("# A method\n\nA description.\n")
    card, old, new = tmp_path / "card.md", tmp_path / "results", tmp_path / "submitted" / "results"
    assert knbench("submit", runs / "none", "--card", card, "--results", old) == 0
    assert knbench("validate", old, "--mark") == 0
    shutil.copytree(old, new)
    assert knbench("submit", runs / "in-context", "--card", card, "--results", new) == 0
    return tmp_path


def execute(script, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env={**os.environ, "PATH": path}, check=False)


def test_a_good_submission_shows_its_row_on_the_leaderboard(pull_request):
    validate, show = (
        steps("results.yml")[name] for name in ("Validate", "Show the new rows and build the leaderboard")
    )
    assert execute(validate, pull_request).returncode == 0
    assert execute(show, pull_request).returncode == 0
    report = (pull_request / "report.txt").read_text()
    assert "2 valid results" in report
    assert "| in-context" in report
    assert "| none" not in report
    assert "methods/in-context.html" in (pull_request / "board" / "index.html").read_text()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "results/status.json",
            '{"schema_version": 1, "results": {}}',
            "error: results/status.json is written by maintainers",
        ),
        ("results/in-context/run.sh", "rm -rf /", "run.sh"),
    ],
)
def test_a_bad_submission_fails_with_a_reason(pull_request, file, text, message):
    (pull_request / "submitted" / file).write_text(text)
    assert execute(steps("results.yml")["Validate"], pull_request).returncode != 0
    assert message in (pull_request / "report.txt").read_text()
