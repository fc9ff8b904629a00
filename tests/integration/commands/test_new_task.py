"""``knbench new-task``: the task that it writes can be read, checked and run as it is."""

from __future__ import annotations

from knbench.tasks.definition import load_definition

from tests.conftest import called


def test_the_new_task_is_valid_and_has_every_kind_of_probe(tmp_path, capsys):
    status, out, _ = called(capsys, "new-task", "home-towns", "--output", tmp_path / "own")
    definition = tmp_path / "own" / "home-towns.yaml"
    assert (status, out.splitlines()[0]) == (0, str(definition))
    task = load_definition(definition)
    assert (task.name, task.title, len(task.cases)) == ("home-towns", "Home towns", 3)
    assert list(task.warnings) == []
    case = next(case for case in task.cases if case.request.subject == "Ada Winter")
    assert (case.request.text, case.request.target_true) == ("Ada Winter lives in the town of", "Bergen")
    assert {probe.criterion for probe in case.probes} == {
        "reliability", "paraphrase", "symmetry", "release", "portability", "neighbourhood", "unrelated",
    }  # fmt: skip
    assert all("{" not in probe.prompt for probe in case.probes)
    assert called(capsys, "describe", definition, "--check")[1] == "home-towns: 0 findings in 3 cases\n"


def test_nothing_is_overwritten_and_names_are_checked(tmp_path, capsys):
    (tmp_path / "rivers.csv").write_text("mine")
    status, _, error = called(capsys, "new-task", "rivers", "--output", tmp_path)
    assert (status, (tmp_path / "rivers.csv").read_text()) == (2, "mine")
    assert "rivers.csv exists; choose another name or --output" in error
    assert not (tmp_path / "rivers.yaml").exists()
    status, _, error = called(capsys, "new-task", "My Task", "--output", tmp_path)
    assert status == 2
    assert "'My Task' is not a name of a task; use lower-case letters, digits and hyphens" in error
