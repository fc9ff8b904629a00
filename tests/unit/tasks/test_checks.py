"""Findings about the data of fact tasks, each on rows worked by hand."""

from __future__ import annotations

import pytest
from knbench.benchmark.commands.main import main
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import LazySequence
from knbench.tasks.definition import load_definition

DEFINITION = """
name: towns
version: 1
kind: fact
title: Towns
description: d
relation: r
licence: CC0-1.0
source: s
citation: c
facts:
  data: [towns.csv]
  id: id
  subject: who
  object: town
  new: new
  edit: "{} lives in"
  support: ["Ask {} about"]
  probes:
    paraphrase: ["The home of {who} is"]
"""


def warnings(folder, rows, definition=DEFINITION):
    (folder / "towns.csv").write_text("id,who,town,new\n" + rows)
    (folder / "towns.yaml").write_text(definition)
    return list(load_definition(folder / "towns.yaml").warnings)


def test_clean_rows_give_no_finding(tmp_path):
    assert warnings(tmp_path, "a,Ann,Rome,Oslo\nb,Bob,Oslo,Rome\n") == []


@pytest.mark.parametrize(
    ("rows", "findings"),
    [
        (
            "a,Ann,Rome,Oslo\nb,Bob,Oslo,Rome\nc,ann,Oslo,Rome\n",
            ["rows 1, 3: subject 'Ann' has several answers: 'Rome', 'Oslo'; keep one of the rows"],
        ),
        ("a,Ann,Rome,Oslo\n\nb,Ann,Rome,Oslo\nc,Bob,Oslo,Rome\n", ["rows 1, 2: the same fact about 'Ann'; keep one"]),
        (
            "a,Ann,New York,Oslo\nb,Bob,Oslo,New York\n",
            [
                "row 1: new target 'Oslo' and true target 'New York' differ in their number of words",
                "row 2: new target 'New York' and true target 'Oslo' differ in their number of words",
            ],
        ),
        (
            "a,Lady Oslo,Rome,Oslo\nb,Bob,Oslo,Rome\n",
            ["row 1: subject 'Lady Oslo' and new target 'Oslo' contain each other; use another row or target"],
        ),
        (
            "a,Rome,Roma Rome,Oslo Bay\nb,Bob,Oslo Bay,Roma Rome\n",
            ["row 1: subject 'Rome' and true target 'Roma Rome' contain each other"],
        ),
        ("a,Romeo,Rome,Oslo\nb,Bob,Oslo,Rome\n", []),
        (
            "a,Ann,in,Oslo\nb,Bob,Oslo,in\n",
            [
                "row 1: the reliability prompt 'Ann lives in' contains the answer 'in'",
                "row 2: the reliability prompt 'Bob lives in' contains the answer 'in'",
            ],
        ),
        ("a,Ann,about,Oslo\nb,Bob,Oslo,about\n", ["row 1: the support prompt 'Ask Ann about' contains the answer"]),
        (
            "a,Ann,The,Oslo\nb,Bob,Oslo,The\n",
            [
                "row 1: the paraphrase prompt 'The home of Ann is' contains the answer 'The'",
                "row 2: the paraphrase prompt 'The home of Bob is' contains the answer 'The'",
            ],
        ),
    ],
)
def test_each_finding_names_its_rows(tmp_path, rows, findings):
    found = warnings(tmp_path, rows)
    assert len(found) == len(findings)
    for line, start in zip(found, findings, strict=True):
        assert line.startswith(start)
        assert "\n" not in line


def test_shared_objects_are_findings_only_if_the_task_asks_for_the_subject(tmp_path):
    rows = "a,Ann,Rome,Oslo\nb,Bob,Oslo,Rome\nc,Cleo,Rome,Oslo\n"
    assert warnings(tmp_path, rows) == []
    inverse = DEFINITION.replace("paraphrase:", 'symmetry: ["{town} is the home of"]\n    paraphrase:')
    assert warnings(tmp_path, rows, inverse)[0].startswith("rows 1, 3: object 'Rome' has several subjects")


def test_rows_are_counted_before_incomplete_ones_are_dropped(tmp_path):
    found = warnings(tmp_path, "a,Ann,,Oslo\nb,Oslo,Rome,Oslo Bay\nc,Bob,Oslo Bay,Rome\n")
    assert found[0].startswith("row 2: ")


def test_the_check_is_a_command(tmp_path, capsys):
    warnings(tmp_path, "a,Ann,Rome,Oslo\nb,Bob,Oslo,Rome\nc,Ann,Oslo,Rome\n")
    main(["describe", str(tmp_path / "towns.yaml"), "--check"])
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("rows 1, 3: subject 'Ann' has several answers")
    assert last == "towns: 1 finding in 3 cases"
    main(["describe", "towns", "--include-path", str(tmp_path), "--check", "--json"])
    assert "rows 1, 3" in capsys.readouterr().out
    main(["describe", str(tmp_path / "towns.yaml")])
    assert "Towns" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["describe", "rome", "--check"])
    assert "unknown task 'rome'" in capsys.readouterr().err


def test_findings_are_no_part_of_the_content_or_the_card():
    task = registry.task("capital")
    assert isinstance(task.warnings, LazySequence)
    assert len(task.warnings) > 0
    assert "warnings" not in task.card()
    assert list(registry.task("det-noun-agreement").warnings) == []
