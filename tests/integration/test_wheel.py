"""The wheel: everything that an installed copy needs, without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmark", "editors", "tasks", "leaderboard")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``knbench`` command of an environment that holds the built wheel.

    The libraries are this environment's own, so that no network is needed. The wheel is built from a copy of the
    tracked folders and the command runs elsewhere, so that nothing can be read from the checkout.
    """
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(work), str(source)], check=True, timeout=300)
    wheel = next(work.glob("knbench-*.whl"))
    venv.create(work / "env", with_pip=False, symlinks=True)
    python = work / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=300)
    site = next((work / "env").glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return work / "env" / "bin" / "knbench"


def run(command: Path, *args: object, cwd: Path) -> str:
    done = subprocess.run(
        [command, *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": ""}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lists_tasks(installed, tmp_path):
    assert "capital-inverse" in run(installed, "list", "tasks", cwd=tmp_path)


def test_reads_own_task_definitions(installed, tmp_path):
    """A definition is validated against a schema that is packaged, too."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    done = subprocess.run(
        [installed, "describe", "mine", "--include-path", "mine"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": ""}, timeout=300,
    )  # fmt: skip
    assert (done.returncode, "mine.yaml" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_validates_stored_results(installed, tmp_path):
    shutil.copytree(ROOT / "results" / "none", tmp_path / "results" / "none")
    assert "good" in run(installed, "validate", "results", cwd=tmp_path)


def test_builds_a_site(installed, tmp_path):
    for method in ("none", "rome"):
        shutil.copytree(ROOT / "results" / method, tmp_path / "results" / method)
    run(installed, "site", "build", "results", "--output", "site", cwd=tmp_path)
    assert "rome" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_holds_every_data_file(installed):
    """Whatever lies beside the code in the checkout lies beside it in the wheel."""
    site = next(installed.parents[1].glob("lib/python*/site-packages/knbench"))
    skipped = {"__pycache__", "authoring"}
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.is_file() and not skipped & set(relative.parts):
                assert (site / relative).is_file(), relative
