"""``knbench list`` with a filter, and the width of its tables."""

from __future__ import annotations

import json

import pytest

from tests.conftest import called

CATEGORIES = ("editors", "guards", "tasks", "models", "families", "boards", "protocols")


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_listing_fits_80_characters_and_names_every_entry(capsys, category):
    rows = json.loads(called(capsys, "list", category, "--json")[1])
    status, out, err = called(capsys, "list", category)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    names = [line.split()[0] for line in out.splitlines()[3:] if line.strip() and not line.startswith("  ")]
    first = next(iter(rows[0]))
    assert {str(row[first]).split()[0] for row in rows} <= {*names, *(name for name in out.split())}
    assert out.startswith(f"{category} ({len(rows)})\n")


def test_words_filter_the_rows_in_all_columns_and_in_json(capsys):
    out = called(capsys, "list", "editors", "MENG", "rank-one")[1]
    assert "\n rome " in out
    assert "memit" not in out
    assert "More: knbench describe NAME" in out
    rows = json.loads(called(capsys, "list", "editors", "meng", "rank-one", "--json")[1])
    assert [row["name"] for row in rows] == ["rome"]
    assert set(rows[0]) == {"name", "kind", "summary", "paper"}
    status, out, _ = called(capsys, "list", "tasks", "no such word")
    assert (status, out.splitlines()[0].split("(")[1][:4], len(out.splitlines())) == (0, "0 of", 1)


def test_families_are_listed_with_their_paths(capsys):
    rows = {row["architecture"]: row for row in json.loads(called(capsys, "list", "families", "--json")[1])}
    assert rows["Phi3ForCausalLM"]["mlp_in"] == "mlp.gate_up_proj"
    assert (rows["BertForMaskedLM"]["kind"], rows["GPT2LMHeadModel"]["kind"]) == ("masked", "causal")


def test_a_guard_is_described_with_its_hyper_parameters(capsys):
    description = json.loads(called(capsys, "describe", "rect", "--json")[1])
    assert (description["kind"], description["paper"]) == ("guard", "Gu et al. 2024 (EMNLP)")
    assert [row["name"] for row in description["hyper_parameters"]] == ["rect_share"]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["describe", "captial"], "did you mean 'capital'? See: knbench list tasks, and the same with editors"),
        (["run", "--editors", "rmoe", "--tasks", "capital"], "did you mean 'rome'? See: knbench list editors"),
        (["run", "--editors", "rome", "--tasks", "captial"], "did you mean 'capital'? See: knbench list tasks"),
        (["rnu"], "did you mean 'run'? See: knbench --help"),
    ],
)
def test_an_error_names_the_command_that_lists_the_names(capsys, arguments, command):
    status, out, err = called(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert command in err
