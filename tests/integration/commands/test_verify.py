"""``knbench verify`` on a store: outcome, exit status, marks, resumption and errors."""

from __future__ import annotations

import gzip
import json

import pytest
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.documents import load_result, manifest_of
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.results.store import read_status_file

from tests.conftest import called, knbench

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def store(tmp_path):
    """Return a store with the results of one method on a toy model."""
    (tmp_path / "CARD.md").write_text("# No edit\n\nIt does nothing.\n")
    flags = ("--model", "toy-gpt2", "--editors", "none", "--tasks", "religion", "--subset", "lite", "--known-only")
    assert knbench("run", *flags, "--output", tmp_path / "runs") == 0
    card = ("--card", tmp_path / "CARD.md", "--results", tmp_path / "results")
    assert knbench("submit", tmp_path / "runs", *card) == 0
    return tmp_path / "results"


def test_an_honest_result_is_marked_and_a_falsified_one_is_named(store, capsys):
    status, out, err = called(capsys, "verify", store / "none", "--cases", 2, "--seed", 5, "--mark")
    assert (status, "agrees: " in out, ": 2 of " in out) == (0, True, True), out + err
    (note,) = read_status_file(store / "status.json")["results"].values()
    assert (len(note["spot_checked"]), note["rerun"]) == (2, False)
    status, out, _ = called(capsys, "verify", store, "--mark", "--resume")
    assert (status, "0 results" in out) == (0, True)

    (path,) = store.rglob("religion*.json")
    lines_path = path.with_name(f"{path.stem}.records.jsonl.gz")
    lines = [json.loads(line) for line in gzip.decompress(lines_path.read_bytes()).splitlines()]
    for line in lines:
        after = line["probes"][0]["after"]
        after["generated"] = after["top"] + " invented"
    lines_path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    again = score_files(manifest_of(load_result(path)), lambda name: path.with_name(f"{path.stem}.{name}.gz"))
    path.write_text(json_text(to_json(again)))
    status, out, err = called(capsys, "verify", store, "--cases", 1, "--mark", "--resume")
    assert status == 2
    assert "differs: " in out, out + err
    assert "probe 1 (reliability), after the edit: the generated text is" in out
    assert " invented' in the file and" in out
    assert "1 of 1 results differ or cannot be verified" in err
    (note,) = read_status_file(store / "status.json")["results"].values()
    assert (note["rerun"], "spot_checked" in note) == (False, False)

    status, out, _ = called(capsys, "verify", store, "--model", "toy-bert", "--json", "--seed", 1)
    document = json.loads(out)
    assert status == 2
    assert (document["seed"], document["results"][0]["agrees"]) == (1, False)
    assert "the model 'toy-bert' has weight_hash" in document["results"][0]["error"]


def test_a_folder_that_does_not_exist_is_named(tmp_path, capsys):
    status, _, err = called(capsys, "verify", tmp_path / "nothing")
    assert (status, "nothing' is not a directory" in err) == (2, True)
