"""CODEOWNERS names files that exist, and every file that decides what is published has an owner."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line.split()
    for line in (ROOT / ".github" / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
GUARDED = (
    ".github/workflows/results.yml",
    ".github/scripts/check_submission.sh",
    "results/status.json",
    "benchmark/results/validation.py",
    "benchmark/results/contribution.py",
    "benchmark/results/board_places.py",
    "benchmark/running/verification.py",
    "benchmark/commands/submit.py",
    "benchmark/commands/verify.py",
    "leaderboard/boards/knbench-lite-v2.yaml",
    "leaderboard/entries.py",
    "pyproject.toml",
)


@pytest.mark.parametrize(("path", "owner"), LINES)
def test_every_path_exists_and_has_an_owner(path, owner):
    assert path.startswith("/"), "a path without a leading slash matches at every depth"
    assert (ROOT / path.strip("/")).exists(), f"{path} does not exist; correct or delete its line in .github/CODEOWNERS"
    assert (ROOT / path.strip("/")).is_dir() == path.endswith("/")
    assert owner.startswith("@")


@pytest.mark.parametrize("file", GUARDED)
def test_files_that_decide_what_is_published_have_an_owner(file):
    assert (ROOT / file).is_file()
    assert any(f"/{file}" == path or (path.endswith("/") and f"/{file}".startswith(path)) for path, _ in LINES)
