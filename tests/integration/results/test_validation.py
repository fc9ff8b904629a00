"""From a run to a stored result; and what is broken, false or hostile in a submission, each refused in one line."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
from knbench.benchmark.commands.main import main
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import to_json
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.results.documents import first_difference
from knbench.benchmark.results.runs import find_runs
from knbench.benchmark.results.store import CARD_BYTES, location_of
from knbench.benchmark.results.validation import validate
from knbench.editors.none import NoEdit
from knbench.leaderboard.build import build_site

from tests.conftest import called, make_lm
from tests.files import run_folders as run
from tests.integration.running.test_regimes import Nudge

TASK = "anaphor-gender"
STORED = f"{TASK}.v3.lite.all-cases"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    settings = RunSettings(batch_size=16, new_tokens=2, subset="lite")
    run(make_lm("llama"), [NoEdit, Nudge], [registry.task(TASK)], folder, settings)
    return folder


@pytest.fixture(scope="module")
def submitted(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    card = root / "CARD.md"
    card.write_text("# A method\n\nIt does what it says.\n")
    for name in ("none", "nudge"):
        main(["submit", str(runs / name), "--card", str(card), "--results", str(root / "results")])
    return root / "results"


@pytest.fixture
def store(submitted, tmp_path):
    shutil.copytree(submitted, tmp_path / "results")
    return tmp_path / "results"


def result_path(store, method="nudge"):
    return next((store / method).rglob(f"{STORED}.json"))


def records_path(store, method="nudge"):
    return next((store / method).rglob("*.records.jsonl.gz"))


def change_result(store, change):
    path = result_path(store)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def change_records(store, change, rescore=True, raw=False):
    """Change records, and the result with them: somebody who cheats takes care that the hashes fit."""
    path = records_path(store)
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    change(records)
    text = "".join(json.dumps(r) + "\n" for r in records)
    path.write_bytes(gzip.compress((text.replace('"INF"', "-1e999") if raw else text).encode()))
    if rescore:
        from knbench.benchmark.results.documents import load_result, manifest_of
        from knbench.benchmark.results.rescoring import score_files

        place = result_path(store)
        stem = place.parent / STORED
        manifest = manifest_of(load_result(place))
        result = score_files(manifest, lambda name: stem.with_name(f"{STORED}.{name}.gz"))
        place.write_text(json_text(to_json(result)))


def test_a_run_becomes_a_stored_result_that_is_the_runs_own(runs, submitted, capsys):
    (stored,) = find_runs([submitted / "nudge"])
    (own,) = find_runs([runs / "nudge"])
    assert stored.result == own.result
    assert stored.records() == own.records()
    folder, name = location_of(own.result)
    assert stored.result_path == submitted / folder / f"{name}.json"
    assert folder.parts[:2] == ("nudge", "tiny-llama")
    status, out, _ = called(capsys, "validate", submitted)
    assert (status, "2 valid results" in out) == (0, True)


def test_submitting_again_changes_nothing(runs, store, capsys):
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    status, _, _ = called(capsys, "submit", runs / "nudge", "--results", store)
    assert status == 0
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_another_result_in_its_place_is_not_replaced(store, tmp_path, capsys):
    settings = RunSettings(batch_size=16, new_tokens=3, subset="lite")
    run(make_lm("llama"), [Nudge], [registry.task(TASK)], tmp_path / "other", settings)
    before = result_path(store).read_bytes()
    status, _, err = called(capsys, "submit", tmp_path / "other", "--results", store)
    assert (status, "results are never replaced" in err) == (2, True)
    assert result_path(store).read_bytes() == before


def test_a_method_without_a_card_is_not_stored(runs, tmp_path, capsys):
    status, _, err = called(capsys, "submit", runs / "nudge", "--results", tmp_path / "r")
    assert (status, "'nudge' has no card" in err) == (2, True)
    assert not (tmp_path / "r").exists()


def test_a_board_is_built_from_the_store(submitted, tmp_path):
    page = build_site([submitted], tmp_path / "site").read_text()
    assert "nudge" in page
    assert "none" in page


def zeros(store):
    """Half a megabyte that unpacks to half a gigabyte."""
    chunk = gzip.compress(bytes(1 << 24))
    records_path(store).write_bytes(chunk * 33)


def probe(records, number=0, place=0):
    return records[number]["probes"][place]


HOSTILE = {
    "a script for a name": (
        lambda s: change_result(s, lambda d: d["editor"].update(name="<script>alert(1)</script>")),
        "not a valid result at /editor/name",
    ),
    "a path for a name": (
        lambda s: change_result(s, lambda d: d["editor"].update(name="../../etc/passwd")),
        "not a valid result at /editor/name",
    ),
    "a path for a task": (
        lambda s: change_result(s, lambda d: d["task"].update(name="../x")),
        "not a valid result at /task/name",
    ),
    "a name of someone else": (
        lambda s: change_result(s, lambda d: d["editor"].update(name="rome")),
        "belongs at rome/tiny-llama",
    ),
    "a link out of the folder": (
        lambda s: (s / "nudge" / "secret.json").symlink_to("/etc/hostname"),
        "links are not followed",
    ),
    "a pickle": (lambda s: (s / "nudge" / "model.pkl").write_bytes(b"\x80\x04."), "does not belong to a result"),
    "a program": (lambda s: (s / "nudge" / "setup.py").write_text("import os"), "does not belong to a result"),
    "half a gigabyte of zeros": (zeros, "has a line of more than 4 MB"),
    "a broken archive": (lambda s: records_path(s).write_bytes(b"\x1f\x8b\x08rubbish"), "records.jsonl.gz"),
    "an archive cut off": (
        lambda s: records_path(s).write_bytes(records_path(s).read_bytes()[:-30]),
        "ended before the end-of-stream marker",
    ),
    "missing records": (lambda s: records_path(s).unlink(), "missing; store the result again"),
    "a nest without end": (lambda s: result_path(s).write_text("[" * 100_000), "not valid JSON"),
    "a number without end": (lambda s: result_path(s).write_text("1" * 10_000), "not valid JSON"),
    "a summary that is no number": (
        lambda s: result_path(s).write_text(
            result_path(s).read_text().replace('"value": ', '"value": NaN, "was": ', 1)
        ),
        "NaN is not a JSON number",
    ),
    "a probability that is infinite": (
        lambda s: change_records(
            s, lambda r: probe(r)["after"]["target"].update(logprob="INF"), rescore=False, raw=True
        ),
        "line 1 is broken: -1e999 is beyond the range of numbers",
    ),
    "records in a nest without end": (
        lambda s: records_path(s).write_bytes(gzip.compress(b"[" * 100_000 + b"\n")),
        "line 1 is broken",
    ),
    "no JSON": (lambda s: result_path(s).write_text("{"), "not valid JSON"),
    "a version to come": (
        lambda s: change_result(s, lambda d: d.update(schema_version=99)),
        "schema version 99 is newer than 1; upgrade knbench",
    ),
    "a number that is none": (
        lambda s: change_records(s, lambda r: probe(r)["after"]["target"].update(logprob=float("nan")), rescore=False),
        "NaN is not a JSON number",
    ),
    "a probability above one": (
        lambda s: change_records(s, lambda r: probe(r)["after"]["target"].update(logprob=0.1), rescore=False),
        "is not a valid record at /probes/0/after",
    ),
    "a better summary": (
        lambda s: change_result(s, lambda d: d["summary"][0].update(value=1.0)),
        "/summary/0/value differs from what the records give",
    ),
    "another hash": (
        lambda s: change_result(s, lambda d: d["records"].update(sha256="0" * 64)),
        "/records/sha256 differs from what the records give",
    ),
    "a record left out": (lambda s: change_records(s, lambda r: r.pop(1), rescore=False), "23 of 24 cases (index 1"),
    "a record twice": (lambda s: change_records(s, lambda r: r.append(r[0]), rescore=False), "line 25 repeats case"),
    "a case measured once for two": (
        lambda s: change_records(
            s,
            lambda r: [
                a.update(before=b["before"], after=b["after"])
                for a, b in zip(r[1]["probes"], r[0]["probes"], strict=True)
            ],
        ),
        "/1 has exactly the observations of /0",
    ),
    "an easier question": (
        lambda s: change_records(s, lambda r: probe(r).update(rival="xyzzy")),
        "has another probe 0 than the task",
    ),
    "tokens that do not sum": (
        lambda s: change_records(s, lambda r: probe(r)["after"]["target"].update(logprob=-1e-6)),
        "/0/probes/0/after/target/logprob is not the sum of token_logprobs",
    ),
    "more than the most probable": (
        lambda s: change_records(s, lambda r: probe(r)["after"].update(top_logprob=-60.0)),
        "is more probable than the most probable token",
    ),
    "a false first rank": (
        lambda s: change_records(
            s, lambda r: probe(r)["after"]["target"].update(ranks=[0] * len(probe(r)["after"]["target"]["ranks"]))
        ),
        "for a token that is not the most probable",
    ),
    "an answer of another length": (
        lambda s: change_records(
            s, lambda r: probe(r, place=-2)["after"]["target"].update(argmax=[1] * 40), rescore=False
        ),
        "contradict each other",
    ),
    "a text for an answer": (
        lambda s: change_records(s, lambda r: probe(r).update(after={"text": "x"}), rescore=False),
        "contradict each other",
    ),
    "answers without an edit": (
        lambda s: change_records(s, lambda r: r[0]["edit"].update(parameters=[], parameters_touched=0)),
        "/0/edit names no parameter, module or text",
    ),
    "another unedited model": (
        lambda s: change_records(
            s,
            lambda r: probe(r, place=-2)["before"]["target"].update(
                logprob=probe(r, place=-2)["before"]["target"]["logprob"] - 2,
                token_logprobs=[
                    probe(r, place=-2)["before"]["target"]["token_logprobs"][0] - 2,
                    *probe(r, place=-2)["before"]["target"]["token_logprobs"][1:],
                ],
            ),
        ),
        "for the same question to the same unedited model",
    ),
    "an empty card": (lambda s: (s / "nudge" / "card.md").write_text(" \n"), "the card is empty"),
    "a huge card": (lambda s: (s / "nudge" / "card.md").write_text("x" * (CARD_BYTES + 1)), "a card has at most 64 kB"),
    "no card": (lambda s: (s / "nudge" / "card.md").unlink(), "card.md: missing"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_broken_false_or_hostile_is_named_in_one_line(store, capsys, what):
    change, complaint = HOSTILE[what]
    change(store)
    status, out, err = called(capsys, "validate", store)
    assert status == 2
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert any(complaint in line for line in errors), errors
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize("what", HOSTILE)
def test_the_site_is_built_with_the_others_all_the_same(store, tmp_path, capsys, what):
    change, _ = HOSTILE[what]
    change(store)
    status, out, err = called(capsys, "site", "build", store, "--output", tmp_path / "site")
    lines = err.splitlines()
    assert all(line.startswith("knbench: left out: ") for line in lines)
    assert (status, len(lines)) in ((0, 0), (2, 1))
    assert out.startswith("Site: ")
    html = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert "methods/none.html" in html
    assert "<script>alert" not in html
    shown = "methods/nudge.html" in (tmp_path / "site/index.html").read_text()
    assert not shown or status == 0 or "card" in err or "links are not followed" in err  # the result itself is intact
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "site"]


def test_a_result_may_differ_from_its_records_by_rounding_and_no_more(store, capsys):
    def times(factor):
        def change(result):
            at = next(n for n, row in enumerate(result["summary"]) if isinstance(row["low"], float) and row["low"])
            result["summary"][at]["low"] *= factor
            changed.append(f"/summary/{at}/low differs from what the records give")

        return change

    changed = []
    change_result(store, times(1 + 1e-12))
    assert called(capsys, "validate", store)[0] == 0
    change_result(store, times(1 + 1e-6))
    status, out, _ = called(capsys, "validate", store)
    assert (status, changed[0] in out) == (2, True)


@pytest.mark.parametrize(
    ("stored", "again", "place"),
    [
        ({"a": [1.0, 0.0]}, {"a": [1.0, 1e-17]}, None),  # a sum of numbers that cancel
        ({"a": [1.0, 0.0]}, {"a": [1.0, 1e-12]}, "/a/1"),
        ({"a": [1.0]}, {"a": [1.0, 2.0]}, "/a"),
        ({"a": {"b": None}}, {"a": {"b": 0.5}}, "/a/b"),
        ({"a": 1}, {"a": 1, "b": 2}, "/b"),
    ],
)
def test_the_first_place_where_documents_differ_is_pointed_to(stored, again, place):
    assert first_difference(stored, again) == first_difference(again, stored) == place


def test_the_other_methods_stay_good_beside_a_bad_one(store):
    result_path(store).write_text("{")
    verdict = validate(store, registry.tasks())
    assert [run.result.editor.name for run in verdict.results] == ["none"]


def test_script_in_a_prompt_is_shown_and_not_run(store, tmp_path):
    change_records(store, lambda r: r[0]["probes"][0]["after"].update(generated="<script>alert(1)</script>"))
    build_site([store], tmp_path / "site")
    pages = [path.read_text() for path in (tmp_path / "site").rglob("*.html")]
    assert not any("<script>alert" in page for page in pages)
    assert any("&lt;script&gt;alert(1)" in page for page in pages)


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(KnbenchError, match="is not a directory; make one with: knbench submit"):
        validate(tmp_path / "no", {})
    assert "holds no result" in validate(tmp_path, {}).problems[0]
