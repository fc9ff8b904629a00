"""Plug-ins that cannot be used, and names that are registered twice: one line each, and everything else works.

The packages are installed as files on the module path: modules, and a ``dist-info`` folder with entry points.
"""

from __future__ import annotations

import json
import sys
from textwrap import dedent

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.editing import editor_classes
from knbench.benchmark.models.families import BUILT_IN, known_families

from tests.conftest import called

GROUPS = (
    registry.EDITORS,
    registry.TASKS,
    registry.FAMILIES,
    registry.COMMANDS,
    registry.TASK_FOLDERS,
    registry.READERS,
)
GOOD = """
    import click
    from knbench.benchmark import Task
    from knbench.benchmark.editing import Edit, Editor, NoConfig
    from knbench.benchmark.models.families import ModelFamily

    class {name}(Editor[NoConfig]):
        name, summary, Config = "{name}", "for tests", NoConfig

        def edit(self, lm, requests):
            return Edit()

    @click.command()
    def command():
        "Prints a name."
        click.echo("{name} ran")

    def tasks():
        text = dict.fromkeys(("title", "description", "licence", "citation", "source", "relation"), "x")
        return [Task(name=name, version=1, kind="fact", criteria=(), cases=(), **text) for name in {tasks}]

    def reader(name, selection, source):
        raise ZeroDivisionError("in the reader")

    families = {{"{architecture}": ModelFamily("b", "a", "m", "i", "o")}}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package with one module."""
    registry._warned.clear()
    modules = []

    def install(package, source, points):
        module = package.replace("-", "_")
        modules.append(module)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[{group}]\n{name} = {module}:{attribute}\n" for group, (name, attribute) in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / f"{module}.py").write_text(dedent(source))
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def warnings(stderr):
    return [line for line in stderr.splitlines() if line.startswith("knbench: warning: ")]


def runs(capsys, model_folder, output):
    """Run the control with the command line and return its warnings."""
    arguments = ["run", "--model", model_folder, "--editors", "none", "--tasks", "capital", "--limit", "1"]
    status, out, err = called(capsys, *arguments, "--output", output, "--json")
    assert status == 0, err
    assert json.loads(out)[0]["records"]["failed"] == 0
    return warnings(err)


FAULTS = {
    "a missing module": ("import module_that_is_not_installed", "cannot be imported: No module named"),
    "an exit at import": ("import sys\nsys.exit(3)", "cannot be imported: SystemExit: 3"),
    "an error at import": ("raise RuntimeError('no licence\\nfound')", "cannot be imported: RuntimeError: no licence"),
    "a syntax error": ("def (", "cannot be imported: SyntaxError"),
    "a missing attribute": ("", "cannot be imported: "),
    "another type": ("thing = 3", "is not a"),
}


LONG = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=[] if name in ("an exit at import", "another type") else LONG) for name in FAULTS],
)
def test_a_package_that_cannot_be_used_disables_only_itself(install, capsys, model_folder, tmp_path, fault):
    source, reason = FAULTS[fault]
    install("knbench-faulty", source, dict.fromkeys(GROUPS, ("faulty", "thing")))
    status, out, err = called(capsys, "--help")
    assert (status, "  run " in out, "  site " in out) == (0, True, True)
    (line,) = warnings(err)
    assert line.startswith("knbench: warning: plug-in 'faulty' (knbench_faulty:thing) of package knbench-faulty ")
    assert reason in line
    seen = 0
    for category in ("models", "tasks", "editors"):
        registry._warned.clear()
        status, out, err = called(capsys, "list", category, "--json")
        assert (status, len(json.loads(out)) > 1) == (0, True)
        # One line for each group that is read and gives another reason.
        assert warnings(err)
        assert all("of package knbench-faulty" in line and line.endswith("it is left out") for line in warnings(err))
        assert len(warnings(err)) == len(set(warnings(err)))
        seen = max(seen, len(warnings(err)))
    if fault != "another type":  # the same sentence for every group
        assert seen == 1
    registry._warned.clear()
    assert all("of package knbench-faulty" in line for line in runs(capsys, model_folder, tmp_path / "out"))
    for arguments in (["faulty"], ["describe", "faulty"], ["run", "--tasks", "faulty"], ["run", "--editors", "faulty"]):
        more = ["--tasks", "capital"] if "--editors" in arguments else []
        status, _, err = called(capsys, *arguments, *more)
        line = err.splitlines()[-1]
        assert status == 2
        assert "plug-in 'faulty' (knbench_faulty:thing) of package knbench-faulty" in line, arguments


def test_names_of_built_ins_cannot_be_taken(install, capsys, model_folder, tmp_path):
    source = GOOD.format(name="Other", tasks=["capital", "its-own"], architecture="LlamaForCausalLM")
    points = {
        registry.EDITORS: ("none", "Other"),
        registry.TASKS: ("other", "tasks"),
        registry.COMMANDS: ("run", "command"),
        registry.READERS: ("zsre", "reader"),
        registry.FAMILIES: ("other", "families"),
        registry.TASK_FOLDERS: ("yaml", "tasks"),
    }
    before = {name: task.content_hash() for name, task in registry.tasks().items()}
    install("knbench-other", source, points)
    for group, name in ((registry.EDITORS, "none"), (registry.COMMANDS, "run"), (registry.READERS, "zsre")):
        assert registry.registered(group)[name].value.startswith("knbench.")
    after = {name: task.content_hash() for name, task in registry.tasks().items()}
    assert {**after, "its-own": ""} == {**before, "its-own": ""}
    assert known_families()["LlamaForCausalLM"] == BUILT_IN["LlamaForCausalLM"]
    assert editor_classes()["none"].__module__ == "knbench.editors.none"
    said = warnings(capsys.readouterr().err)
    assert len(said) == 4
    for line, name in zip(said, ("none", "run", "zsre", "capital"), strict=True):
        assert "of package knbench-other registers" in line
        assert f"registers '{name}' in knbench." in line
        assert line.endswith("which is built in; it is left out")
    assert runs(capsys, model_folder, tmp_path / "out") == []  # each is printed once


def test_two_packages_that_register_one_name_are_both_left_out(install, capsys, model_folder, tmp_path):
    def points(package):
        return {
            registry.EDITORS: ("same", "same"),
            registry.TASKS: (package, "tasks"),
            registry.COMMANDS: ("same", "command"),
            registry.READERS: ("same", "reader"),
            registry.FAMILIES: (package, "families"),
        }

    for package in ("one", "two"):
        tasks = ["same", f"only-{package}"]
        source = GOOD.format(name="same", tasks=tasks, architecture="SameForCausalLM")
        install(f"knbench-{package}", source, points(package))
    for group in (registry.EDITORS, registry.COMMANDS, registry.READERS):
        assert "same" not in registry.registered(group)
    assert {"only-one", "only-two", "capital"} <= registry.tasks().keys()
    assert "same" not in registry.tasks()
    assert "SameForCausalLM" not in known_families()
    said = warnings(capsys.readouterr().err)
    assert len(said) == 5
    for line in said:
        assert "of package knbench-one and plug-in" in line
        assert "of package knbench-two register the same name" in line
    assert called(capsys, "--help")[0] == 0
    assert runs(capsys, model_folder, tmp_path / "out") == []
    assert "unknown command 'same'" in called(capsys, "same")[2]


def test_a_package_that_is_found_twice_counts_once(install, monkeypatch):
    install("knbench-good", GOOD.format(name="good", tasks=[], architecture="A"), {registry.EDITORS: ("good", "good")})
    points = list(registry.entry_points(group=registry.EDITORS))
    monkeypatch.setattr(registry, "entry_points", lambda group: [*points, *points] if group == registry.EDITORS else [])
    assert registry.registered(registry.EDITORS).keys() >= {"good", "rome"}
    assert "good" in editor_classes()


def test_a_good_package_is_used(install, capsys):
    points = {
        registry.EDITORS: ("good", "good"),
        registry.TASKS: ("good", "tasks"),
        registry.COMMANDS: ("good", "command"),
        registry.READERS: ("good-data", "reader"),
        registry.FAMILIES: ("good", "families"),
    }
    install("knbench-good", GOOD.format(name="good", tasks=["its-own"], architecture="GoodForCausalLM"), points)
    assert called(capsys, "good")[:2] == (0, "good ran\n")
    assert "Prints a name." in called(capsys, "--help")[1]
    assert "GoodForCausalLM" in known_families()
    listed = called(capsys, "list", "tasks", "--json")[1]
    assert "its-own" in {row["name"] for row in json.loads(listed)}
    status, _, err = called(capsys, "run", "--tasks", "good-data")
    (line,) = err.splitlines()
    assert (status, line) == (
        2,
        "knbench: plug-in 'good-data' (knbench_good:reader) of package knbench-good raised ZeroDivisionError: in the "
        "reader",
    )


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return 3", "raised TypeError: 'int' object is not iterable"),
        ("return [1]", "returned objects that are not tasks"),
        ("yield 1 / 0", "raised ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(4)", "raised SystemExit: 4"),
        ("return open('/no/such/file')", "No such file or directory: '/no/such/file'"),
    ],
)
def test_tasks_that_cannot_be_made_are_left_out(install, capsys, body, part):
    install("knbench-tasks", f"def tasks():\n    {body}\n", {registry.TASKS: ("mine", "tasks")})
    assert "capital" in registry.tasks()
    (line,) = warnings(capsys.readouterr().err)
    assert "plug-in 'mine' (knbench_tasks:tasks) of package knbench-tasks" in line
    assert part in line


@pytest.mark.parametrize("value", ["3", "(1, 2)", "None", "(1, [])"])
def test_a_reader_that_returns_something_else_is_named(install, value):
    install("knbench-data", f"def reader(*_):\n    return {value}\n", {registry.READERS: ("mine", "reader")})
    with pytest.raises(KnbenchError, match=r"of package knbench-data returned"):
        registry.published_task("mine", {})
