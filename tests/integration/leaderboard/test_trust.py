"""Levels of trust on the board: a maintained store ranks only what was spot-checked or re-run."""

from __future__ import annotations

import json

import pytest
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.runs import find_runs
from knbench.benchmark.results.store import read_status, store_run, write_status
from knbench.benchmark.results.trust import LEVELS, Trust, lowest, mark_verified, trust_of
from knbench.benchmark.running.run_folder import finish
from knbench.leaderboard.build import build_site

from tests.factories import manifest, observation, probe, record

GOOD, BAD = observation(-1.0, -9.0), observation(-9.0, -1.0, generated="y")
KEPT = observation(-1.0, -9.0, kl=0.0)
SHARES = {"none": 0.0, "rome": 0.5, "made-up": 1.0}
"""Shares of edits that a method has right."""


def add_result(root, editor, share, task="capital", cases=20):
    """Store a result with a share of right edits."""
    folder = root / "runs" / task / editor
    folder.mkdir(parents=True)
    records = [
        record(
            i,
            [
                probe("reliability", GOOD if i < cases * share else BAD, before=BAD),
                probe("neighbourhood", KEPT, before=KEPT, expect="unchanged"),
            ],
        )
        for i in range(cases)
    ]
    (folder / "manifest.json").write_text(json_text(to_json(manifest(editor, task, "fact", cases=cases))))
    (folder / "records.jsonl").write_text("".join(json.dumps(to_json(line)) + "\n" for line in records))
    store_run(finish(folder), root / "results")


@pytest.fixture
def store(tmp_path):
    """Return a store with three methods on one task, without a status file."""
    for editor, share in SHARES.items():
        add_result(tmp_path, editor, share)
    return tmp_path / "results"


def by_method(store):
    return {run.result.editor.name: run for run in find_runs([store])}


def levels(store):
    status = read_status([store])
    return {name: trust_of(run, status).words for name, run in by_method(store).items()}


def board(store, tmp_path):
    """Return the front page, and the rank of each method."""
    page = build_site([store], tmp_path / "site").read_text()
    (path,) = (tmp_path / "site").rglob("facts*edit_score.json")
    return page, {row["method"]: row["rank"] for row in json.loads(path.read_text())}


def test_without_a_status_file_all_results_are_own_runs_and_ranked(store, tmp_path):
    page, ranks = board(store, tmp_path)
    assert set(levels(store).values()) == {"own run"}
    assert ranks == {"made-up": "1", "rome": "2", "none": "3"}
    assert page.count(">own run</span>") == 3


def test_a_store_in_which_nothing_was_verified_ranks_all_results_as_own_runs(store, tmp_path):
    write_status(store, list(by_method(store).values()), [])
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
    rows = page[page.index("<tbody>") :]
    assert rows.index(">rome</a>") < rows.index(">none</a>") < rows.index(">made-up</a>")
    assert "spot-checked (3 of 20 cases)</span>" in page


def test_self_reported_results_on_one_more_task_or_of_one_case_change_no_rank(store, tmp_path):
    runs = by_method(store)
    for name in ("rome", "none"):
        mark_verified(runs[name], ["c1"], agrees=True)
    add_result(tmp_path, "made-up", 1.0, task="religion")
    add_result(tmp_path, "tiny", 1.0, cases=1)
    _, ranks = board(store, tmp_path)
    assert ranks == {"rome": "1", "none": "2", "made-up": "", "tiny": ""}
    (path,) = (tmp_path / "site").rglob("religion*edit_score.json")
    assert {row["method"]: row["rank"] for row in json.loads(path.read_text())} == {"made-up": ""}


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
    write_status(store, [runs["rome"]], [])
    assert (store / "status.json").read_text() == before
    write_status(store, list(runs.values()), [])
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
