"""Local paths in runs of earlier versions do not reach a results store."""

from __future__ import annotations

import gzip
import json

import msgspec
import pytest
from knbench.benchmark.core.files import write_json
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.documents import load_result
from knbench.benchmark.results.io import lines_text
from knbench.benchmark.results.publication import public_lines, public_run
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.results.runs import find_runs

from tests import factories
from tests.conftest import called

HOME = "/home/someone/work"
COMMAND = f"knbench run --data pararel={HOME}/all.json --model '{HOME}/my model' --tasks pararel:P36"


def write_run(folder, task="own", corpus=f"{HOME}/wiki.txt", messages=(f"no file '{HOME}/x.txt' here",)):
    """Write the folder of a run as version 0.1 did: with whole paths, and one failed record per message."""
    manifest = factories.manifest("mine", task, cases=2 + len(messages))
    replace = msgspec.structs.replace
    manifest = replace(
        manifest,
        editor=replace(manifest.editor, config={"corpus": corpus, "layer": 3}, prepared={"corpus": corpus, "n": [1]}),
        task=replace(manifest.task, source=f"{HOME}/own.yaml"),
        environment={"command": COMMAND, "python": "3.11"},
    )
    records = []
    for index in range(2 + len(messages)):  # no two cases have the same numbers
        before, after = (factories.observation(x, x, top_logprob=x) for x in (-1.0, -1.5 - index / 8))
        failed = None if index < 2 else replace(factories.failure(), message=messages[index - 2])
        probe = factories.probe("reliability", None if failed else after, before=before)
        records.append(factories.record(index, [probe], failed=failed))
    records[1] = replace(
        records[1], edit=replace(records[1].edit, diagnostics={"text": f"{HOME}/log.txt", "loss": 0.1})
    )
    folder = folder / "mine" / task
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", to_json(manifest))
    (folder / "records.jsonl").write_text(lines_text(records))
    write_json(folder / "result.json", to_json(score_files(manifest, lambda name: folder / name)))
    return folder


@pytest.fixture
def submit(tmp_path, capsys):
    """Return a function that submits a folder with a card."""
    card = tmp_path / "CARD.md"
    card.write_text("# A method\n\nA description.\n")
    return lambda folder: called(capsys, "submit", folder, "--card", card, "--results", tmp_path / "store")


def stored(tmp_path):
    """The content of every stored file, decompressed."""
    files = {path: path.read_bytes() for path in sorted((tmp_path / "store").rglob("*")) if path.is_file()}
    return {path.name: gzip.decompress(data) if path.suffix == ".gz" else data for path, data in files.items()}


def test_a_stored_result_has_no_folders(tmp_path, submit, capsys):
    folder = write_run(tmp_path / "runs")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, out, err = submit(tmp_path / "runs")
    assert status == 0, out + err
    files = stored(tmp_path)
    assert not [name for name, data in files.items() if b"/home" in data or b"someone" in data]
    result = json.loads(files["own.json"])
    assert result["editor"]["config"] == {"corpus": "wiki.txt", "layer": 3}
    assert result["editor"]["prepared"] == {"corpus": "wiki.txt", "n": [1]}
    assert result["task"]["source"] == "own.yaml"
    assert result["environment"] == {
        "command": "knbench run --data pararel=all.json --model 'my model' --tasks pararel:P36",
        "python": "3.11",
    }
    lines = [json.loads(line) for line in files["own.records.jsonl.gz"].splitlines()]
    assert lines[1]["edit"]["diagnostics"] == {"text": "log.txt", "loss": 0.1}
    assert lines[2]["failure"]["message"] == "no file 'x.txt' here"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    # The stored result is that of its stored records, and the numbers are those of the run.
    assert called(capsys, "validate", tmp_path / "store")[0] == 0
    assert called(capsys, "score", tmp_path / "store")[0] == 0
    assert result["summary"] == json.loads(before[folder / "result.json"])["summary"]


def test_it_can_be_submitted_again_and_beside_a_run_of_this_version(tmp_path, submit):
    write_run(tmp_path / "runs")
    assert submit(tmp_path / "runs")[0] == 0
    files = stored(tmp_path)
    assert submit(tmp_path / "runs")[0] == 0
    assert stored(tmp_path) == files
    write_run(tmp_path / "new", task="other", corpus="wiki.txt", messages=())  # the same settings in both forms
    assert submit(tmp_path / "new")[0] == 0
    write_run(tmp_path / "wrong", task="third", corpus=f"{HOME}/news.txt", messages=())
    status, _, err = submit(tmp_path / "wrong")
    assert (status, "has other settings of 'mine'" in err) == (2, True)


def test_a_run_of_this_version_keeps_its_bytes(tmp_path):
    folder = write_run(tmp_path / "runs", corpus="datasets:org/name", messages=("a/b and https://x.org/a/b",))
    data = (folder / "records.jsonl").read_bytes().replace(HOME.encode() + b"/", b"")
    assert public_lines(data) == data
    (run,) = find_runs([folder])
    public = public_run(run).result
    assert to_json(public_run(public_run(run)).result) == to_json(public)
    assert public.editor == load_result(folder / "result.json").editor
