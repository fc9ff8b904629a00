from __future__ import annotations

import errno
import json
import os

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.files import atomic_write, write_json
from knbench.benchmark.results.io import RecordsFile, read_records


def record(case_id, **more):
    answer = {"logprob": -1.0, "token_logprobs": [-1.0], "ranks": [0], "argmax": [1]}
    probe = {
        "criterion": "reliability", "kind": "completion", "prompt": "p", "target": "a", "rival": "b",
        "expect": "new", "aliases": [], "before": {"target": answer, "rival": answer}, "after": None,
    }  # fmt: skip
    return {
        "index": 0, "case_id": case_id, "source": "", "probes": [probe], "failure": None, "timings": {},
        "request": {"prompt": "{}", "subject": "s", "target_new": "a", "target_true": "b"},
        "edit": {"parameters": [], "parameters_touched": 0, "prefix": "", "diagnostics": {}},
        **more,
    }  # fmt: skip


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fails():
        with atomic_write(path) as stream:
            stream.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_records_survive_and_a_cut_line_is_measured_again(tmp_path):
    path = tmp_path / "records.jsonl"
    records = RecordsFile(path)
    records.append(record("a"))
    records.append(record("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = RecordsFile(path)
    assert again.done == {"a"}
    again.append(record("b"))
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_partial_line(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    records = RecordsFile(path)
    records.append(record("a"))
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space"):
        records.append(record("b"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "line 2 is broken"),
        (json.dumps(record("a")), "line 2 repeats case 'a' of line 1"),
        (json.dumps(record("b", timings={"edit_seconds": -1})), "line 2 is no valid record at /timings/edit_seconds"),
        (json.dumps(record("b")).replace("-1.0", "0.5"), "line 2 is no valid record at /probes/0/before"),
        (json.dumps(record("b", index=float("nan"))), "NaN is no JSON number"),
    ],
)
def test_a_broken_line_is_named_and_not_skipped(tmp_path, line, complaint):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{json.dumps(record('a'))}\n{line}\n{json.dumps(record('c'))}\n")
    with pytest.raises(KnbenchError, match=complaint):
        read_records(path)
