"""Tables of task definitions: CSV as spreadsheets write it, and JSON Lines that cannot be read."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.tasks.formats import parse_csv
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
