"""Levels of trust on the board: a maintained store ranks only what was spot-checked or re-run."""

from __future__ import annotations

import json
import re

import pytest
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.runs import find_runs
from knbench.benchmark.results.store import read_status, store_run, write_status
from knbench.benchmark.results.trust import LEVELS, Trust, lowest, mark_verified, trust_of
from knbench.benchmark.running.run_folder import finish
from knbench.leaderboard.build import build_site
from msgspec.structs import replace

from tests.factories import board as make_board
from tests.factories import manifest, observation, probe, record

GOOD, BAD = observation(-1.0, -9.0), observation(-9.0, -1.0, generated="y")
KEPT = observation(-1.0, -9.0, kl=0.0)
SHARES = {"none": 0.0, "rome": 0.5, "made-up": 1.0}
"""Shares of edits that a method has right."""


def records_of(share, cases=20, prompt="p"):
    """Return records with a share of right edits."""
    return [
        record(
            i,
            [
                probe("reliability", GOOD if i < cases * share else BAD, before=BAD, prompt=prompt),
                probe("neighbourhood", KEPT, before=KEPT, expect="unchanged"),
            ],
        )
        for i in range(cases)
    ]


BOARD = make_board({"capital": records_of(0)})


def add_result(root, editor, share, task="capital", records=None, tokenizer=None, **about):
    """Store a result with a share of right edits, or with the given records."""
    folder = root / "runs" / task / editor
    folder.mkdir(parents=True)
    records = records or records_of(share)
    cases = len(records)
    made = manifest(editor, task, "fact", cases=cases, **about)
    made = replace(made, model=replace(made.model, tokenizer_hash=tokenizer))
    (folder / "manifest.json").write_text(json_text(to_json(made)))
    (folder / "records.jsonl").write_text("".join(json.dumps(to_json(line)) + "\n" for line in records))
    store_run(finish(folder), root / "results")


@pytest.fixture
def store(tmp_path):
    """Return a store with three methods on one task, without a status file."""
    for editor, share in SHARES.items():
        add_result(tmp_path, editor, share)
    return tmp_path / "results"


def row_of(page, method):
    """Return the row of a method, without the level of trust that a verification of its results changes."""
    (row,) = (row for row in page.split("<tr ")[1:] if f"methods/{method}.html" in row)
    return row


def by_method(store):
    return {run.result.editor.name: run for run in find_runs([store])}


def levels(store):
    status = read_status([store])
    return {name: trust_of(run, status).words for name, run in by_method(store).items()}


def board(store, tmp_path, boards=(BOARD,)):
    """Return the front page, and the rank of each method on it."""
    page = build_site([store], tmp_path / "site", boards={found.key: found for found in boards}).read_text()
    (link,) = set(re.findall(r"data/[^\"]*/facts.json", page))
    return page, {row["method"]: row["rank"] for row in json.loads((tmp_path / "site" / link).read_text())}


def test_without_a_status_file_all_results_are_own_runs_and_ranked(store, tmp_path):
    page, ranks = board(store, tmp_path)
    assert set(levels(store).values()) == {"own run"}
    assert ranks == {"made-up": "1", "rome": "2", "none": "3"}
    assert page.count(">own run</span></span>") == 3


def test_a_store_in_which_nothing_was_verified_ranks_all_results_as_own_runs(store, tmp_path):
    write_status(store, list(by_method(store).values()))
    assert (store / "status.json").exists()
    _, ranks = board(store, tmp_path)
    assert set(levels(store).values()) == {"own run"}
    assert ranks == {"made-up": "1", "rome": "2", "none": "3"}


def test_a_maintained_store_ranks_only_verified_results_and_shows_the_others_below(store, tmp_path):
    runs = by_method(store)
    mark_verified(runs["rome"], ["c1", "c5", "c2"], agrees=True)
    mark_verified(runs["none"], [f"c{i}" for i in range(20)], agrees=True)
    page, ranks = board(store, tmp_path)
    assert levels(store) == {"rome": "spot-checked (3 of 20 cases)", "none": "re-run", "made-up": "self-reported"}
    assert ranks == {"rome": "1", "none": "2", "made-up": ""}  # made-up records change no rank
    rows = page[page.index("<tbody>") : page.index("</tbody>")]
    assert rows.index(">rome</a>") < rows.index(">none</a>") < rows.index(">made-up</a>")
    assert "spot-checked (3 of 20 cases)</span>" in rows


def test_attack_6_results_on_more_tasks_or_with_other_cases_change_no_rank_of_others_even_if_verified(store, tmp_path):
    runs = by_method(store)
    for name in ("rome", "none"):
        mark_verified(runs[name], ["c1"], agrees=True)
    before = board(store, tmp_path)[0]
    add_result(tmp_path, "wide", 1.0, task="religion")
    add_result(tmp_path, "tiny", 1.0, records=records_of(1.0, cases=1))
    add_result(tmp_path, "other-probes", 1.0, records=records_of(1.0, prompt="an easier question"))
    add_result(tmp_path, "shuffled", 1.0, records=[replace(r, index=19 - r.index) for r in records_of(1.0)])
    for run in find_runs([store]):
        if run.result.editor.name != "made-up":
            mark_verified(run, ["c1"], agrees=True)
    page, ranks = board(store, tmp_path)
    assert ranks == {"rome": "1", "none": "2", "made-up": "", "tiny": "", "other-probes": "", "shuffled": ""}
    for name in ("rome", "none"):
        assert row_of(page, name) == row_of(before, name)
    assert "capital: case &#39;1&#39; of the board is missing" in row_of(page, "tiny")
    assert "capital: other probes than on the board" in row_of(page, "other-probes")
    assert "capital: the cases are in another order than on the board" in row_of(page, "shuffled")
    paths = (tmp_path / "site" / "data").rglob("*.json")
    rows = [row for path in paths for row in json.loads(path.read_text()) if row["method"] == "wide"]
    assert {row["rank"] for row in rows} == {""}  # a table of no board


def test_a_mark_ends_with_the_result_that_it_is_of_and_with_a_verification_that_differs(store):
    runs = by_method(store)
    mark_verified(runs["rome"], ["c1"], agrees=True)
    mark_verified(runs["none"], ["c1"], agrees=True)
    path = runs["rome"].result_path
    path.write_text(path.read_text() + "\n")
    assert levels(store)["rome"] == "self-reported"
    mark_verified(runs["none"], ["c1"], agrees=False)
    assert levels(store)["none"] == "self-reported"


def test_validation_keeps_the_marks_of_unchanged_results(store):
    runs = by_method(store)
    mark_verified(runs["rome"], ["c1"], agrees=True)
    before = (store / "status.json").read_text()
    write_status(store, [runs["rome"]])
    assert (store / "status.json").read_text() == before
    write_status(store, list(runs.values()))
    assert levels(store) == {
        "rome": "spot-checked (1 of 20 cases)",
        "none": "self-reported",
        "made-up": "self-reported",
    }


def test_repeating_a_case_does_not_make_a_rerun(store):
    run = by_method(store)["rome"]
    mark_verified(run, ["c1"] * 20, agrees=True)
    assert levels(store)["rome"].startswith("spot-checked")


def test_a_row_has_the_lowest_level_of_its_results():
    parts = [Trust("re-run", 20, 20), Trust("spot-checked", 3, 20)]
    assert lowest(parts) == Trust("spot-checked", 23, 40)
    assert not lowest([*parts, Trust("self-reported", 0, 20)]).ranked
    assert {"own run", "self-reported", "spot-checked", "re-run"} == set(LEVELS)


def test_the_only_result_of_a_task_can_be_left_out_and_the_site_is_built(tmp_path):
    add_result(tmp_path, "rome", 0.5, tokenizer="1" * 64)
    add_result(tmp_path, "hostile", 0.5, task="religion", tokenizer="2" * 64)
    errors = []
    index = build_site([tmp_path / "results"], tmp_path / "site", on_broken=errors.append)
    assert ["has another tokenizer in" in str(error) for error in errors] == [True]
    assert ">rome</a>" in index.read_text() or ">hostile</a>" in index.read_text()
