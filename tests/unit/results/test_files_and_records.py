from __future__ import annotations

import errno
import json
import os
import random

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.files import atomic_write, write_json
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.io import RECORD, JsonLinesFile, nesting, read_json, read_lines

from tests.factories import observation, probe
from tests.factories import record as make_record


def record(case_id):
    return make_record(0, [probe("reliability", None, before=observation(-1.0, -1.0))], case_id=case_id)


def line(case_id, **more):
    return json.dumps({**to_json(record(case_id)), **more})


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
    records = JsonLinesFile(path, RECORD)
    records.append(record("a"))
    records.append(record("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = JsonLinesFile(path, RECORD)
    assert again.keys == {"a"}
    again.append(record("b"))
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_partial_line(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    records = JsonLinesFile(path, RECORD)
    records.append(record("a"))
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space"):
        records.append(record("b"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ("{broken", "line 2 is broken"),
        (line("a"), "line 2 repeats case 'a' of line 1"),
        (
            line("b", timings={"edit_seconds": -1, "probe_seconds": None, "peak_memory_mb": None}),
            "line 2 is not a valid record at /timings/edit_seconds",
        ),
        (line("b").replace("-1.0", "0.5"), "line 2 is not a valid record at /probes/0/before"),
        (line("b", index=float("nan")), "NaN is not a JSON number"),
    ],
)
def test_a_broken_line_is_named_and_not_skipped(tmp_path, second, complaint):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{line('a')}\n{second}\n{line('c')}\n")
    with pytest.raises(KnbenchError, match=complaint):
        read_lines(path, RECORD)


def depth_of(value):
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(depth_of, parts), default=0)


def test_the_nesting_of_json_is_that_of_its_values():
    rng = random.Random(0)

    def value(depth):
        if depth == 0 or rng.random() < 0.2:
            return "".join(rng.choices('[]{}"\\\n,: a\N{EM DASH}', k=rng.randrange(6)))
        parts = [value(depth - 1) for _ in range(rng.randrange(4))]
        return parts if rng.random() < 0.5 else {f'"{n}]\\': part for n, part in enumerate(parts)}

    for number in range(300):
        made = value(number % 7)
        for text in (json.dumps(made), json.dumps(made, ensure_ascii=False, indent=1)):
            assert nesting(text) == depth_of(made), text


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("1e999", "beyond the range"),
        ("-1.5E+400", "beyond the range"),
        ("1" * 31, "31 digits"),
        ("1" * 30, None),
        ("1e-999", None),
        ("123456789.0123456789012345678901234", None),
        ('"1e999 "', None),
        ("NaN", "not a JSON number"),
    ],
)
def test_numbers_without_a_finite_value_are_refused(tmp_path, number, error):
    path = tmp_path / "value.json"
    path.write_text(f'{{"a": [{number}]}}')
    if error is None:
        assert read_json(path) == {"a": [json.loads(number)]}
    else:
        with pytest.raises(KnbenchError, match=error):
            read_json(path)
