"""Tables of task definitions: CSV as spreadsheets write it, and JSON Lines that cannot be read."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.tasks.definition import load_definition
from knbench.tasks.formats import parse_csv, parse_yaml
from knbench.tasks.tables import read_table


@pytest.mark.parametrize(
    "text",
    [
        "a;b;\n1;2;\n3;4\n",
        "a;b\n1;2;\n3;4;\n",
        "sep=;\na;b\n1;2\n3;4",
        "a, b\r1, 2\r3, 4",
        " \n\na\tb\n\n\t\n1\t2\n3\t4",
    ],
)
def test_tables_of_definitions_and_of_data_sets_have_the_same_csv(tmp_path, text):
    table = parse_csv("t.csv", text)
    assert [cells[:2] for _, cells in table.rows] == [["1", "2"], ["3", "4"]]
    path = tmp_path / "t.csv"
    path.write_text(text)
    rows = read_table(path, "a", tmp_path / "t.yaml")
    assert {key: row["b"] for key, row in rows.items()} == {"1": "2", "3": "4"}


def test_a_cell_may_hold_a_passage(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,text\n1," + "a" * 200_000 + "\n")
    assert len(read_table(path, "id", tmp_path / "t.yaml")["1"]["text"]) == 200_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "2", "who": "Ann", "who": "Eve"}', "an object has the field 'who' twice"),
        ('{"id": "2", "who": "\\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"id": ' + "1" * 5000 + "}", "4300 digits"),
        ('{"id": "2"', "not valid JSON"),
        ('{"id": 2}', "expected a JSON object whose values are strings"),
        ('{"who": "Ann"}', "row 2: no column 'id'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "1", "who": "Bob"}\n' + line + "\n")
    with pytest.raises(KnbenchError) as error:
        read_table(path, "id", tmp_path / "t.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


HEAD = "name: towns\nversion: 1\nkind: fact\n" + "".join(
    f"{key}: x\n" for key in ("title", "description", "relation", "licence", "source", "citation")
)
FACTS = """facts:
  data: [towns.csv]
  id: id
  subject: who
  object: town
  aliases: other
  new: { seed: 1 }
  edit: "{} lives in"
  probes:
    neighbourhood: { templates: ["{who} lives in"], count: 9 }
"""


def own_task(folder, table, facts=FACTS):
    (folder / "towns.csv").write_text("id,who,town,other,new\n" + table)
    path = folder / "towns.yaml"
    path.write_text(HEAD + facts)
    return load_definition(path)


def test_other_facts_of_a_subject_are_neither_its_new_target_nor_its_neighbours(tmp_path):
    """A neighbour of the same subject would ask the edited prompt for its old answer."""
    table = "1,Ann,Rome,,\n2,ann,Paris,,\n3,Bob,Oslo,,\n4,Eve,Rome,,\n5,Ann,Bern,,\n"
    for case in own_task(tmp_path, table).cases:
        request = case.request
        prompts = {probe.prompt for probe in case.probes if probe.criterion == "neighbourhood"}
        assert request.text.casefold() not in {prompt.casefold() for prompt in prompts}
        if request.subject.casefold() == "ann":
            assert request.target_new == "Oslo"


def test_another_name_of_the_true_answer_is_neither_a_new_target_nor_the_answer_of_a_neighbour(tmp_path):
    table = (
        "1,Ann,Holland,,\n2,Bob,Netherlands,Holland|Low Countries,\n3,Eve,Ko\u0308ln,,\n4,Leo,Köln,,\n5,Max,Rome,,\n"
    )
    names = {"Holland": "nl", "Netherlands": "nl", "Köln": "k", "Ko\u0308ln": "k", "Rome": "r"}
    for case in own_task(tmp_path, table).cases:
        request = case.request
        assert names[request.target_new] != names[request.target_true]
        for probe in case.probes:
            assert names[probe.target] != names[probe.rival]


@pytest.mark.parametrize(
    "table",
    [
        "1,Ann,Rome,,rome\n2,Bob,rome,,Rome\n",
        "1,Ann,Holland,,Netherlands\n2,Bob,Netherlands,Holland,Holland\n",
    ],
)
def test_a_column_of_new_targets_may_not_hold_a_true_answer(tmp_path, table):
    task = own_task(tmp_path, table, FACTS.replace("{ seed: 1 }", "new"))
    with pytest.raises(KnbenchError, match="of id '1' equals its object or another name of it"):
        task.cases[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 1.0", "version: invalid value 1.0; use an integer"),
        ("count: 9", "count: 9.0", "facts.probes.neighbourhood.count: invalid value 9.0"),
        ("seed: 1", "seed: 1.0", "facts.new.seed: invalid value 1.0"),
        ("count: 9", "count: 9, count: 1", "not valid YAML: the key 'count' occurs twice"),
        ("title: x", 'title: "\\uD800"', "not valid YAML: half of a surrogate pair"),
        ("title: x", "title: " + "[" * 3000, "not valid YAML: it is nested too deeply"),
    ],
)
def test_a_definition_that_yaml_reads_otherwise_than_it_looks_is_an_error(tmp_path, old, new, message):
    path = tmp_path / "towns.yaml"
    path.write_text((HEAD + FACTS).replace(old, new))
    with pytest.raises(KnbenchError) as error:
        load_definition(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_definition_may_merge_mappings(tmp_path):
    text = "a: &a { x: 1, y: 2 }\nb: { <<: *a, y: 3 }\n"
    assert parse_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
    (tmp_path / "towns.yaml").mkdir()
    with pytest.raises(KnbenchError, match="cannot read the file: Is a directory"):
        load_definition(tmp_path / "towns.yaml")
