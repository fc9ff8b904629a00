"""The code, links and tables of the README and of the documentation agree with the project."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LESSON = (ROOT / "docs/tutorial/own-method.md").read_text(encoding="utf-8")


def block(text, language):
    """Return the only code block of a language in a text."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return code


def test_the_readme_is_short_and_names_every_method_and_guard():
    assert len(README.splitlines()) <= 135
    table = README[README.index("## Methods") : README.index("## Tasks")]
    names = [*registry.registered(registry.EDITORS).values(), *registry.registered(registry.GUARDS).values()]
    missing = [point.name for point in names if registry.is_built_in(point) and f"`{point.name}`" not in table]
    assert missing == []
    assert README.count("```sh\nmake test ") == 1


def test_the_readme_counts_the_built_in_tasks():
    kinds = [task.kind for task in registry.tasks().values()]
    counts = {8: "eight of facts", 12: "twelve linguistic ones", 20: "Twenty [tasks]"}
    for count in (kinds.count("fact"), kinds.count("linguistic"), len(kinds)):
        assert counts[count] in README


@pytest.mark.slow
def test_the_method_of_the_tutorial_can_be_installed_and_used(lm, tmp_path):
    """The files of the lesson, as a reader would copy them, are a package that registers an editor."""
    folder, target = tmp_path / "my_method", tmp_path / "installed"
    for language in ("python", "toml"):
        code = block(LESSON, language)
        path = tmp_path / code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(folder)], check=True, timeout=300)
    (package,) = metadata.distributions(path=[str(target)])
    (point,) = package.entry_points.select(group=registry.EDITORS)
    assert (point.name, (target / f"{point.module}.py").exists()) == ("halve", True)
    names: dict[str, type] = {}
    exec(block(LESSON, "python"), names)
    editor, source = build_editor(names[point.attr], lm, {"layer": "1"})
    assert source == "generic; user set layer"
    before = lm.weight_hash()
    edit = editor.edit(lm, [EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")])
    with edit.applied(lm):
        assert lm.weight_hash() != before
    assert lm.weight_hash() == before


def test_the_task_of_the_tutorial_is_complete(tmp_path):
    lesson = (ROOT / "docs/tutorial/own-task.md").read_text(encoding="utf-8")
    (tmp_path / "rivers.yaml").write_text(block(lesson, "yaml"), encoding="utf-8")
    (tmp_path / "rivers.csv").write_text(block(lesson, "text"), encoding="utf-8")
    task = registry.tasks([tmp_path])["rivers"]
    assert len(task.cases) == 8
    criteria = {probe.criterion for case in task.cases for probe in case.probes}
    assert criteria == {"reliability", "paraphrase", "neighbourhood", "unrelated"}


def test_every_link_of_the_documents_leads_to_a_file():
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
