"""``knbench status`` reads who writes a run folder, and never takes the folder's lock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from knbench.benchmark.commands.status import status_of
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.records import to_json
from knbench.benchmark.running.owner import OWNER, is_owned
from knbench.benchmark.running.run_folder import claim, locked

from tests import factories
from tests.integration.results.test_submission import write_run


def test_a_locked_folder_is_owned_until_its_process_ends(tmp_path):
    with locked(tmp_path):
        assert is_owned(tmp_path)
        with pytest.raises(KnbenchError, match="another process"), locked(tmp_path):
            pass
        assert is_owned(tmp_path)
    assert not is_owned(tmp_path)
    code = "from pathlib import Path; import os, sys\nfrom knbench.benchmark.running.owner import write_owner\n"
    subprocess.run([sys.executable, "-c", f"{code}write_owner(Path(sys.argv[1])); os._exit(9)", tmp_path], check=False)
    assert (tmp_path / OWNER).exists()
    assert not is_owned(tmp_path)  # the process that wrote the note was killed


@pytest.mark.parametrize("change", [{"started": "1"}, {"pid": 2**22 + 5}, {"pid": "x"}, {"pid": None}])
def test_a_note_of_another_process_does_not_count(tmp_path, change):
    with locked(tmp_path):
        note = json.loads((tmp_path / OWNER).read_text())
        (tmp_path / OWNER).write_text(json.dumps({**note, **change}))
        assert not is_owned(tmp_path)
        (tmp_path / OWNER).write_text(json.dumps({**note, "host": "another"}))
        assert is_owned(tmp_path)


def test_status_takes_no_lock(tmp_path, monkeypatch):
    folder = write_run(tmp_path, finished=False)
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: pytest.fail("the lock was taken"))
    before = sorted(path.name for path in folder.iterdir())
    assert status_of(folder, []).state == "stopped"
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("task", [None, [], "x", 3])
def test_claiming_a_folder_with_a_broken_manifest_is_refused(tmp_path, task):
    manifest = to_json(factories.manifest())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "task": task}))
    with pytest.raises(KnbenchError, match="holds another run"):
        claim(tmp_path, manifest)


@pytest.mark.parametrize("name", ["records.jsonl", "result.json", "drift.jsonl"])
def test_records_without_a_manifest_are_not_adopted(tmp_path, name):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(KnbenchError, match=rf"holds {name} and no manifest.json"):
        claim(tmp_path, to_json(factories.manifest()))
