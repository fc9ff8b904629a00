"""The wheel, installed without the checkout and without the packages of the extras: the base package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from email.parser import HeaderParser
from pathlib import Path

import pytest
from knbench.benchmark.commands.main import EXTRAS

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmark", "editors", "tasks", "leaderboard")
BLOCK_EXTRAS = f"""
import sys

BLOCKED = { ({name for names in EXTRAS.values() for name in names})!r}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``knbench`` command of an environment with the built wheel, in which the extras cannot be imported.

    Libraries come from the current environment, because tests use no network. The wheel is built from a copy of the
    packages, and the command runs in another folder, to keep it from reading files of the checkout.
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
    (site / "block_extras.py").write_text(BLOCK_EXTRAS, encoding="utf-8")
    (site / "libraries.pth").write_text(f"{sysconfig.get_paths()['purelib']}\nimport block_extras\n", encoding="utf-8")
    return work / "env" / "bin" / "knbench"


def called(command: Path, *args: object, cwd: Path) -> tuple[int, str, str]:
    """Run a command and return its exit status, stdout and stderr."""
    done = subprocess.run(
        [command, *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": ""}, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def run(command: Path, *args: object, cwd: Path) -> str:
    status, out, err = called(command, *args, cwd=cwd)
    assert status == 0, err
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a results store of two methods on one task."""
    folder = tmp_path_factory.mktemp("store")
    for method in ("none", "rome"):
        (result,) = (ROOT / "results" / method).glob("smollm2-135m/*/capital.lite.json")
        for path in (result, result.with_name("capital.lite.records.jsonl.gz")):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        shutil.copy(ROOT / "results" / method / "card.md", folder / "results" / method)
    return folder


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["list", "tasks"], "capital-inverse"),
        (["list", "models"], "smollm2-135m"),
        (["list", "protocols"], "EasyEdit"),
        (["describe", "capital"], "reliability"),
        (["describe", "smollm2-135m"], "licence"),
        (["run", "--help"], "--known-only"),
    ],
)
def test_lists_and_describes(installed, tmp_path, args, part):
    assert part.casefold() in run(installed, *args, cwd=tmp_path).casefold()


@pytest.mark.parametrize(
    "args",
    [["run", "--tasks", "capital"], ["run", "--tasks", "capital", "--executor", "local"], ["check-editor", "rome"]],
)
def test_names_the_extra_that_a_command_needs(installed, tmp_path, args):
    status, out, err = called(installed, *args, "--json", cwd=tmp_path)
    command = " ".join(["knbench", *args[: 1 if args[0] == "run" else 2]])
    assert (status, out) == (2, "")
    assert err == (
        f"knbench: '{command}' needs torch, which is not installed; install it with: pip install 'knbench[run]'\n"
    )


def test_extras_of_the_metadata_are_those_of_the_error_message(installed):
    (metadata,) = installed.parents[1].glob("lib/python*/site-packages/knbench-*.dist-info/METADATA")
    requirements = HeaderParser().parsestr(metadata.read_text(encoding="utf-8")).get_all("Requires-Dist", [])
    for extra, modules in EXTRAS.items():
        found = [re.match(r"[\w.-]+", r) for r in requirements if re.search(rf"extra == ['\"]{extra}['\"]", r)]
        assert sorted(match[0].replace("-", "_") for match in found) == sorted(modules)


def test_reads_own_task_definitions(installed, tmp_path):
    """The wheel contains the schema of task definitions."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    status, _, err = called(installed, "describe", "mine", "--include-path", "mine", cwd=tmp_path)
    assert (status, "mine.yaml" in err, "Traceback" in err) == (2, True, False)


def test_validates_scores_and_compares_stored_results(installed, store):
    assert "2 valid results" in run(installed, "validate", "results", cwd=store)
    assert "| rome |" in run(installed, "score", "results", "--markdown", cwd=store)
    rows = json.loads(run(installed, "compare", "results", "--json", cwd=store))["rows"]
    assert {row["task"] for row in rows} == {"capital"}


def test_unpacks_and_submits(installed, store, tmp_path):
    run(installed, "unpack", store / "results", "--output", "runs", cwd=tmp_path)
    assert '"finished"' in run(installed, "status", "runs", "--json", cwd=tmp_path)
    card = store / "results" / "rome" / "card.md"
    runs = next((tmp_path / "runs").glob("*/rome"))
    run(installed, "submit", runs, "--card", card, "--results", "results", cwd=tmp_path)


def test_builds_a_site(installed, store, tmp_path):
    run(installed, "site", "build", store / "results", "--output", "site", cwd=tmp_path)
    assert "rome" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_holds_every_data_file(installed):
    """The wheel contains every file of the packages, except for ``tasks/authoring``."""
    site = next(installed.parents[1].glob("lib/python*/site-packages/knbench"))
    skipped = {"__pycache__", "authoring"}
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.is_file() and not skipped & set(relative.parts):
                assert (site / relative).is_file(), relative
