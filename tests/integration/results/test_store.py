"""The store of results: laid out again as runs, marked, and with what people write beside it."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from pathlib import Path
from statistics import harmonic_mean

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.core.split import LITE_CASES, lite_cases, split_cases
from knbench.benchmark.probing.baseline import select_cases
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.results.runs import find_runs
from knbench.benchmark.results.store import read_status
from knbench.benchmark.results.trust import LEVELS, trust_of
from knbench.benchmark.results.validation import validate
from knbench.editors.none import NoEdit
from knbench.leaderboard.build import build_site
from knbench.leaderboard.cards import card_html

from tests.conftest import called, make_lm
from tests.files import run_folders as run
from tests.integration.running.test_regimes import Nudge

TASK = "anaphor-gender"
SETTINGS = RunSettings(batch_size=16, new_tokens=2, subset="lite")
REPORTED = {
    "schema_version": 1,
    "method": "nudge",
    "source": {"citation": "Somebody 2020", "where": "<b>Table 1</b>", "url": "https://example.org/paper"},
    "rows": [{"model": "GPT-2", "data": "D", "number": "ES", "value": 99.5, "unit": "%", "here": "reliability"}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    run(make_lm("llama"), [NoEdit, Nudge], [registry.task(TASK)], root / "runs", SETTINGS)
    (root / "CARD.md").write_text("# Card\n\nIt *nudges*.\n")
    return root


@pytest.fixture
def store(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name in ("none", "nudge"):
        status, _, said = called(
            capsys,
            "submit",
            tmp_path / "runs" / name,
            "--card",
            tmp_path / "CARD.md",
            "--results",
            tmp_path / "results",
        )
        assert status == 0, said
    return tmp_path / "results"


def test_what_is_laid_out_is_the_run_again_and_is_not_run_again(store, made, capsys, tmp_path):
    status, said, _ = called(capsys, "unpack", store, "--output", tmp_path / "again")
    assert (status, "2 run folders written, 0 already exist" in said) == (0, True)
    for name in ("records.jsonl", "result.json", "manifest.json"):
        (path,) = (tmp_path / "again").rglob(f"nudge/{TASK}/{name}")
        assert path.read_bytes() == (made / "runs" / "nudge" / TASK / name).read_bytes()

    class Refuses(Nudge):
        def edit(self, lm, requests):
            raise AssertionError("this case was measured already")

    output = path.parents[2]
    run(make_lm("llama"), [Refuses], [registry.task(TASK)], output, SETTINGS)
    assert path.read_bytes() == (made / "runs" / "nudge" / TASK / "manifest.json").read_bytes()
    assert (
        "0 run folders written, 2 already exist" in called(capsys, "unpack", store, "--output", tmp_path / "again")[1]
    )


def test_marks_tell_what_was_scored_and_run_again_and_end_with_the_result_they_are_of(store, made, capsys):
    def levels():
        status = read_status([store])
        return {found.result.editor.name: trust_of(found, status).level for found in find_runs([store])}

    assert levels() == {"none": "own run", "nudge": "own run"}
    assert called(capsys, "validate", store, "--mark")[0] == 0
    assert levels() == {"none": "own run", "nudge": "own run"}  # nothing in the store was verified
    assert called(capsys, "verify", store, "--mark", "--rerun", made / "runs" / "nudge")[0] == 0
    assert levels() == {"none": "self-reported", "nudge": "re-run"}
    assert called(capsys, "validate", store, "--mark")[0] == 0
    assert levels()["nudge"] == "re-run"  # it is the same result still
    (path,) = (store / "nudge").rglob(f"{TASK}.v3.lite.all-cases.json")
    path.write_text(path.read_text() + "\n")
    assert levels()["nudge"] == "self-reported"
    assert set(LEVELS) >= set(levels().values())


def test_a_run_that_says_otherwise_does_not_bear_a_result_out(store, made, capsys, tmp_path):
    records = tmp_path / "runs" / "nudge" / TASK / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    for probe in (probe for probe in rows[0]["probes"] if "target" in probe["after"]):
        target = probe["after"]["target"]
        target["logprob"] -= 3
        target["token_logprobs"][0] -= 3
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, said = called(capsys, "score", tmp_path / "runs" / "nudge", "--write")
    assert status == 0, said
    status, said, _ = called(capsys, "verify", store, "--mark", "--rerun", tmp_path / "runs" / "nudge")
    assert status == 2
    assert "log-probability of token 1 of the target is" in said
    assert not any(note["rerun"] for note in read_status([store]).values())


def test_only_texts_that_rounding_can_change_are_measured_again(store, made, capsys, tmp_path, monkeypatch):
    records = tmp_path / "runs" / "nudge" / TASK / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    rows[1]["probes"][0]["after"]["generated"] += " again"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert called(capsys, "score", tmp_path / "runs" / "nudge", "--write")[0] == 0
    for found, level in ((["it differs"], "self-reported"), ([], "re-run")):
        measured = []
        monkeypatch.setattr(
            "knbench.benchmark.commands.verify._Verifier._measured",
            lambda _self, run, case_ids, m=measured, f=found: (m.append((run.result.editor.name, case_ids)), f),
        )
        assert called(capsys, "validate", store, "--mark")[0] == 0
        called(capsys, "verify", store, "--mark", "--rerun", made / "runs" / "none")
        status, said, _ = called(capsys, "verify", store, "--mark", "--rerun", tmp_path / "runs" / "nudge")
        assert (status, "it differs" in said) == (2 if found else 0, bool(found))
        assert measured == [("nudge", [rows[1]["case_id"]])]
        status = read_status([store])
        assert {r.result.editor.name: trust_of(r, status).level for r in find_runs([store])}["nudge"] == level


@pytest.mark.parametrize(
    ("text", "gone", "kept"),
    [
        ("<script>alert(1)</script>x", "<script", "x"),
        ("[x](javascript:alert(1))", "href", "x"),
        ("![x](https://example.org/a.png)", "<img", "x"),
        ("<img src=x onerror=alert(1)>", "<img", "onerror"),
        ("# One\n\ntext", "<h1", "<h3>One</h3>"),
        ("| a |\n|---|\n| b |", "style", "<td>b</td>"),
        ("[x](https://example.org)", "javascript", 'href="https://example.org"'),
    ],
)
def test_a_card_is_shown_and_harmless(text, gone, kept):
    html = card_html(text)
    assert gone not in html
    assert kept in html


def test_reported_numbers_stand_apart_with_their_source(store, capsys, tmp_path):
    (store / "nudge" / "reported.json").write_text(json.dumps(REPORTED))
    assert called(capsys, "validate", store)[0] == 0
    site = build_site([store], tmp_path / "site").parent
    for page in (site / "reported.html", site / "methods" / "nudge.html"):
        text = page.read_text()
        assert "99.5%" in text
        assert "reported only" in text
        assert 'href="https://example.org/paper">&lt;b&gt;Table 1' in text
    assert "99.5" not in (site / "index.html").read_text()
    assert "<em>nudges</em>" in (site / "methods" / "nudge.html").read_text()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": {**REPORTED["source"], "url": "javascript:alert(1)"}}, "/source/url"),
        ({"method": "other"}, "belongs in the folder of that method"),
        ({"rows": []}, "/rows"),
        ({"padding": "x" * 70_000}, "at most 64 kB are read"),
    ],
)
def test_reported_numbers_that_cannot_be_are_refused(store, capsys, change, complaint):
    (store / "nudge" / "reported.json").write_text(json.dumps({**REPORTED, **change}))
    status, said, _ = called(capsys, "validate", store)
    assert status == 2
    assert complaint in said


def test_results_on_other_cases_are_told(store, capsys, tmp_path):
    (records,) = (tmp_path / "runs" / "none").rglob("records.jsonl")
    records.write_text(records.read_text().replace('"case_id": "', '"case_id": "x', 1))
    assert called(capsys, "score", tmp_path / "runs" / "none", "--write", "--any-version")[0] == 0
    called(
        capsys, "submit", tmp_path / "runs" / "none", "--card", tmp_path / "CARD.md", "--results", tmp_path / "other"
    )
    shutil.rmtree(store / "none")
    shutil.copytree(tmp_path / "other" / "none", store / "none")
    status, said, _ = called(capsys, "validate", store)
    assert status == 2
    assert "has no case" in said or "has other cases than" in said


def test_lite_is_the_same_draw_for_everybody():
    task = registry.task(TASK)
    cases = split_cases(task.name, task.cases, "test")
    drawn = lite_cases(task.name, cases)
    assert len(drawn) == LITE_CASES
    assert drawn == lite_cases(task.name, cases[::-1])
    assert {case.id for case in drawn} != {case.id for case in cases[:LITE_CASES]}
    prober = make_prober(make_lm("llama"))
    assert tuple(select_cases(prober, task, RunSettings(subset="lite"))) == drawn
    assert tuple(select_cases(prober, task, RunSettings(subset="lite", limit=3))) == drawn[:3]


def test_a_site_is_served_on_this_machine(store, capsys, tmp_path, monkeypatch):
    import http.server

    servers = []

    class Kept(http.server.ThreadingHTTPServer):
        def __init__(self, *args):
            super().__init__(*args)
            servers.append(self)

    monkeypatch.setattr(http.server, "ThreadingHTTPServer", Kept)
    build_site([store], tmp_path / "site")
    assert called(capsys, "site", "serve", tmp_path)[0] == 2
    thread = threading.Thread(target=lambda: called(capsys, "site", "serve", tmp_path / "site", "--port", 0))
    thread.start()
    while not servers:
        thread.join(0.05)
    host, port = servers[0].server_address
    with urllib.request.urlopen(f"http://{host}:{port}/about.html", timeout=10) as answer:
        assert b"About the numbers" in answer.read()
    servers[0].shutdown()
    thread.join()
    assert host == "127.0.0.1"


def test_committed_results_are_as_they_should_be():
    root = Path(__file__).parents[3] / "results"
    documents = [json.loads(path.read_text()) for path in sorted(root.rglob("reported.json"))]
    assert {document["method"] for document in documents} == {"ft", "ft-l", "kn", "rome"}
    for document in documents:  # what a paper calls S is the harmonic mean of the others
        found = {row["number"]: row["value"] for row in document["rows"]}
        assert harmonic_mean([found["ES"], found["PS"], found["NS"]]) == pytest.approx(found["S"], abs=0.1)
    verdict = validate(root, registry.tasks())
    assert list(verdict.problems) == []
    assert verdict.results
