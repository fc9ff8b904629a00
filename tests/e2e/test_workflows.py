"""What the workflow for submissions runs, run here: GitHub itself is not at hand."""

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
    """Return the scripts of a workflow's only job by the names of their steps."""
    (job,) = yaml.safe_load((WORKFLOWS / workflow).read_text())["jobs"].values()
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step and "name" in step}


@pytest.fixture(scope="module")
def runs(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--tasks", "anaphor-gender", "--limit", "2", "--editors", "none,in-context", "--output", folder]
    assert knbench("run", "--model", model_folder, *arguments) == 0
    return folder


@pytest.fixture
def pull_request(runs, tmp_path):
    """A store as it is on the main branch, and beside it one with another method."""
    (tmp_path / "card.md").write_text("# A method\n\nIt does what it says.\n")
    card, old, new = tmp_path / "card.md", tmp_path / "results", tmp_path / "submitted" / "results"
    assert knbench("submit", runs / "none", "--card", card, "--results", old) == 0
    assert knbench("validate", old, "--mark") == 0
    shutil.copytree(old, new)
    assert knbench("submit", runs / "in-context", "--card", card, "--results", new) == 0
    return tmp_path


def carry_out(script, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env={**os.environ, "PATH": path}, check=False)


def test_a_good_submission_shows_its_row_and_the_board_with_it(pull_request):
    validate, show = (
        steps("results.yml")[name] for name in ("Validate", "Show the rows that are new, and the board with them")
    )
    assert carry_out(validate, pull_request).returncode == 0
    assert carry_out(show, pull_request).returncode == 0
    report = (pull_request / "report.txt").read_text()
    assert "2 results are good" in report
    assert "| in-context" in report
    assert "| none" not in report
    assert "methods/in-context.html" in (pull_request / "board" / "index.html").read_text()


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("results/status.json", '{"schema_version": 1, "results": {}}', "mend: results/status.json is for maintainers"),
        ("results/in-context/run.sh", "rm -rf /", "run.sh"),
    ],
)
def test_a_bad_one_fails_and_says_why(pull_request, file, text, complaint):
    (pull_request / "submitted" / file).write_text(text)
    assert carry_out(steps("results.yml")["Validate"], pull_request).returncode != 0
    assert complaint in (pull_request / "report.txt").read_text()
