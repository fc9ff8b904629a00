"""A run folder whose files were changed by something else is refused and left as it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from knbench.benchmark.analyses.base import AnalysisPart, run_analysis
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.settings import DriftSettings, RunSettings
from knbench.benchmark.running.provenance import describe_model
from knbench.editors.none import NoEdit

from tests.conftest import called
from tests.files import json_lines, load_result
from tests.files import run_folders as run
from tests.workers import Push, measured, towns

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
SEQUENTIAL = replace(SETTINGS, sequential=4, checkpoints=(2,), drift=DriftSettings(("perplexity",), 2))
FILES = ("records.jsonl", "checkpoints.jsonl", "drift.jsonl")


def contents(folder):
    """The content of every file of a run folder that is not a lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def changed_number(data):
    """Change the first digit after a decimal point, which leaves a valid line."""
    return re.sub(rb"(?<=\d\.)\d", lambda digit: b"1" if digit[0] != b"1" else b"2", data, count=1)


def swapped(data):
    first, second, *rest = data.splitlines(keepends=True)
    return b"".join([second, first, *rest])


CHANGES = {
    "a number": changed_number,
    "the order of lines": swapped,
    "a line less": lambda data: b"".join(data.splitlines(keepends=True)[:-1]),
    "half a line less": lambda data: data[:-40],
    "empty": lambda _: b"",
    "missing": lambda _: None,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The files of a finished sequential run with drift, by name."""
    from tests.conftest import make_lm

    (folder,) = run(make_lm("llama"), [Push], [towns(6)], tmp_path_factory.mktemp("runs"), SEQUENTIAL)
    return contents(folder)


def restored(files, output):
    folder = output / "push" / "towns"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_after_the_result_is_refused_and_kept(lm, finished, tmp_path, name, change):
    folder = restored(finished, tmp_path)
    data = CHANGES[change]((folder / name).read_bytes())
    if data is None:
        (folder / name).unlink()
    else:
        assert data != finished[name]
        (folder / name).write_bytes(data)
    before = contents(folder)
    verb = "was removed" if data is None else "changed"
    with pytest.raises(KnbenchError) as caught:
        run(lm, [Push], [towns(6)], tmp_path, SEQUENTIAL)
    said = str(caught.value)
    assert said == (
        f"{folder / name}: {verb} after result.json was written; restore it from a copy, or delete {folder} to run it "
        "again"
    )
    assert contents(folder) == before


def test_a_finished_run_is_read_and_not_written(lm, finished, tmp_path):
    folder = restored(finished, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(lm, [Push], [towns(6)], tmp_path, SEQUENTIAL) == [folder]
    assert contents(folder) == finished
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_result_that_differs_from_its_records_is_refused_and_can_be_scored_again(lm, finished, tmp_path, capsys):
    folder = restored(finished, tmp_path)
    document = json.loads(finished["result.json"])
    document["summary"][0]["value"] = 0.123
    (folder / "result.json").write_text(json.dumps(document))
    before = contents(folder)
    with pytest.raises(KnbenchError, match=r"result\.json: /summary/0/value differs .*run: knbench score .* --write"):
        run(lm, [Push], [towns(6)], tmp_path, SEQUENTIAL)
    assert contents(folder) == before
    assert called(capsys, "score", folder, "--write")[0] == 0
    assert run(lm, [Push], [towns(6)], tmp_path, SEQUENTIAL) == [folder]
    assert contents(folder) == finished


def test_records_of_other_cases_are_refused(lm, tmp_path):
    class Stops(Push):
        def edit(self, lm, requests):
            if requests[0].subject == "Mexico 3":
                raise KeyboardInterrupt
            return super().edit(lm, requests)

    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [towns(6)], tmp_path, SETTINGS)
    path = tmp_path / "push/towns/records.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"case_id": "Italy 1"', b'"case_id": "Italy 11"'))
    before = contents(path.parent)
    with pytest.raises(KnbenchError, match=r"records\.jsonl: case 'Italy 11' is not part of this run; restore"):
        run(lm, [Push], [towns(6)], tmp_path, SETTINGS)
    assert contents(path.parent) == before
    path.write_bytes(data)
    (folder,) = run(lm, [Push], [towns(6)], tmp_path, SETTINGS)
    (whole,) = run(lm, [Push], [towns(6)], tmp_path / "whole", SETTINGS)
    assert measured(folder) == measured(whole)


@pytest.mark.parametrize("kept", [FILES[:1], ("result.json",), FILES[1:2], FILES[2:], (*FILES, "result.json")])
def test_files_without_a_manifest_are_refused_and_kept(lm, finished, tmp_path, kept):
    folder = restored({name: finished[name] for name in kept}, tmp_path)
    before = contents(folder)
    with pytest.raises(KnbenchError, match=rf"holds ({'|'.join(kept)}) and no manifest\.json; choose another --output"):
        run(lm, [Push], [towns(6)], tmp_path, SEQUENTIAL)
    assert contents(folder) == before


def test_a_changed_folder_stops_the_run_before_another_folder_is_measured(lm, tmp_path, capsys):
    other, folder = run(lm, [NoEdit, Push], [towns(6)], tmp_path, SETTINGS)
    (other / "result.json").unlink()
    (other / "records.jsonl").write_bytes(b"")
    path = folder / "records.jsonl"
    path.write_bytes(changed_number(path.read_bytes()))
    with pytest.raises(KnbenchError, match="changed after"):
        run(lm, [NoEdit, Push], [towns(6)], tmp_path, SETTINGS)
    assert json_lines(other / "records.jsonl") == []


class Sometimes(Push):
    """Fails on one case, and is interrupted on it if it is to be."""

    error: BaseException | None = ValueError("not today")

    def edit(self, lm, requests):
        if Sometimes.error is not None and requests[0].subject == "Italy 1":
            raise Sometimes.error
        return super().edit(lm, requests)


def test_a_stopped_retry_of_failed_cases_goes_on(lm, tmp_path, monkeypatch):
    (folder,) = run(lm, [Sometimes], [towns(6)], tmp_path / "a", SETTINGS)
    assert load_result(folder / "result.json")["records"]["failed"] == 1
    again = replace(SETTINGS, retry_failed=True)
    monkeypatch.setattr(Sometimes, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(lm, [Sometimes], [towns(6)], tmp_path / "a", again)
    assert not (folder / "result.json").exists()
    assert len(json_lines(folder / "records.jsonl")) == 5
    monkeypatch.setattr(Sometimes, "error", None)
    run(lm, [Sometimes], [towns(6)], tmp_path / "a", SETTINGS)
    (whole,) = run(lm, [Sometimes], [towns(6)], tmp_path / "b", SETTINGS)
    assert measured(folder) == measured(whole)
    assert load_result(folder / "result.json")["records"]["failed"] == 0


def test_an_analysis_whose_parts_changed_is_refused_and_can_be_extended(lm, tmp_path):
    stopped = []

    def part(name):
        def compute():
            if name in stopped:
                raise KeyboardInterrupt
            return {"found": 0.5}

        return AnalysisPart(name, "towns", "fact", compute)

    def analyse(*names):
        parts = [part(name) for name in names]
        return run_analysis(
            "localise", lm, describe_model(lm), {"a": 1}, parts, lambda rows: {"count": len(rows)}, tmp_path, Reporter()
        )

    analyse("one", "two")
    stopped.append("three")
    with pytest.raises(KeyboardInterrupt):
        analyse("one", "two", "four", "three")
    assert not (tmp_path / "analysis.json").exists()
    stopped.clear()
    assert analyse("one", "two", "four", "three")["result"] == {"count": 4}
    path = tmp_path / "parts.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6", 1))
    before = contents(tmp_path)
    with pytest.raises(KnbenchError, match=r"parts\.jsonl: changed after analysis\.json was written; restore it"):
        analyse("one", "two", "four", "three")
    assert contents(tmp_path) == before
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(KnbenchError, match=r"holds parts\.jsonl and no manifest\.json"):
        analyse("one")
