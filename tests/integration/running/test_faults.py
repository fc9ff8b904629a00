"""Faults that are put in on purpose, one test each: nothing is lost, nothing is half, and what is wrong is named."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit
from knbench.benchmark.results.json_schema import check
from knbench.benchmark.running import events as events_module
from knbench.benchmark.running.events import EVENTS, EventLog, read_events
from knbench.benchmark.running.run_folder import locked

from tests.conftest import called
from tests.files import json_lines, load_result
from tests.files import run_folders as run
from tests.workers import Push, measured, towns

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
CASES = 12
REGIMES = [{}, {"batch_edits": 4}, {"sequential": 4}]


@pytest.fixture
def whole(lm, tmp_path):
    """The records of a run that nothing happened to."""
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path / "whole", SETTINGS)
    return measured(folder)


def test_a_disk_that_is_full_in_the_middle_of_a_line_keeps_whole_lines(lm, whole, tmp_path, monkeypatch):
    """The fault is in the operating system's write: half of the fifth record's line gets through."""
    real, written = io.FileIO.write, []

    class Disk(io.FileIO):
        def write(self, data):
            if str(self.name).endswith("records.jsonl"):
                written.append(data)
                if len(written) == 5:
                    real(self, data[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, data)

    opened = type(tmp_path).open

    def open_on_disk(self, mode="r", buffering=-1, **more):
        return Disk(self, "ab") if (mode, buffering) == ("ab", 0) else opened(self, mode, buffering, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "open", open_on_disk)
        with pytest.raises(OSError, match="No space left") as caught:
            run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    path = tmp_path / "a/push/towns/records.jsonl"
    assert caught.value.filename == str(path)
    assert len(json_lines(path)) == 4  # whole ones, and nothing behind them
    assert read_events(tmp_path / "a" / EVENTS)[-1]["event"] == "run_stopped"
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert measured(folder) == whole


@pytest.mark.parametrize("cut", [1, 40, 100_000])
def test_a_truncated_file_is_measured_again_from_its_last_whole_line(lm, whole, tmp_path, cut):
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    (folder / "result.json").unlink()  # the state of a run that was stopped in the middle of a line
    again = run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert measured(again[0]) == whole
    assert load_result(folder / "result.json")["records"]["cases"] == CASES


def test_a_corrupted_middle_line_is_named_and_the_run_refused(lm, tmp_path):
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path, SETTINGS)
    path = folder / "records.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:50] + b"\0\0\0" + lines[2][53:]
    path.write_bytes(b"\n".join(lines))
    (folder / "result.json").unlink()  # with a result, any change is refused; see test_integrity.py
    kept = path.read_bytes()
    with pytest.raises(KnbenchError, match=r"records\.jsonl: line 3 is broken"):
        run(lm, [Push], [towns(CASES)], tmp_path, SETTINGS)
    assert path.read_bytes() == kept


def test_a_clock_that_goes_backwards_changes_nothing(lm, whole, tmp_path, monkeypatch, capsys):
    now = [2e9]

    def an_hour_less():
        now[0] -= 3600
        return now[0]

    class Turned(datetime):
        @classmethod
        def now(cls, tz=None):  # noqa: ARG003
            return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=an_hour_less() - 2e9)

    monkeypatch.setattr(time, "time", an_hour_less)
    monkeypatch.setattr(events_module, "datetime", Turned)
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert measured(folder) == whole
    for record in json_lines(folder / "records.jsonl"):
        assert 0 <= record["timings"]["edit_seconds"] < 60
        assert 0 <= record["timings"]["probe_seconds"] < 60
    events = read_events(tmp_path / "a" / EVENTS)
    times, seconds = [event["time"] for event in events], [event["seconds"] for event in events]
    assert times == sorted(times, reverse=True)
    assert seconds == sorted(seconds)
    (row,) = json.loads(called(capsys, "status", tmp_path / "a", "--json")[1])
    assert (row["state"], row["done"], row["seconds_left"]) == ("finished", CASES, None)
    assert 0 < row["seconds_a_case"] < 60


def test_two_runs_do_not_share_a_folder(lm, whole, tmp_path):
    with (
        locked(tmp_path / "a/push/towns"),
        pytest.raises(KnbenchError, match="is being written by another process; wait for it, or choose another"),
    ):
        run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert not (tmp_path / "a" / EVENTS).exists()
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert measured(folder) == whole


def breaks(_):
    raise ZeroDivisionError("in the middle")


def failing(at, victim="Mexico 3"):
    """An editor that fails on one case, in one of the phases of its life."""

    class Failing(Push):
        def edit(self, lm, requests):
            hit = any(request.subject == victim for request in requests)
            if at == "edit" and hit:
                raise ZeroDivisionError("in the middle")
            edit = super().edit(lm, requests)
            (name,) = edit.weights
            if at == "nan" and hit:
                return Edit(weights={name: edit.weights[name] * float("nan")})
            if at == "apply" and hit:
                return Edit(weights={"no.such.weight": edit.weights[name]})
            if at == "after" and hit:
                return Edit(outputs={"model.layers.1.mlp": breaks})
            return edit

    return Failing


PHASES = {
    "edit": ("edit", "ZeroDivisionError"),
    "nan": ("probe", "NonFiniteEditError"),
    "after": ("probe", "ZeroDivisionError"),
}


@pytest.mark.parametrize("change", REGIMES)
@pytest.mark.parametrize("at", list(PHASES))
def test_an_edit_that_fails_in_any_phase_is_a_record_and_the_model_comes_back(lm, tmp_path, at, change):
    before = lm.weight_hash()
    settings = replace(SETTINGS, **change)
    (folder,) = run(lm, [failing(at)], [towns(CASES)], tmp_path, settings)
    assert lm.weight_hash() == before
    records = json_lines(folder / "records.jsonl")
    found = {r["case_id"]: r["failure"] and (r["failure"]["phase"], r["failure"]["type"]) for r in records}
    lost = list(found)[:4] if "batch_edits" in change else ["Mexico 3"]  # of a batch all fall with the one
    assert {name for name, failure in found.items() if failure} == set(lost)
    assert {found[name] for name in lost} == {PHASES[at]}
    result = load_result(folder / "result.json")
    assert result["records"]["failed"] == len(lost)
    events = [e for e in read_events(tmp_path / EVENTS) if e["event"] == "case_failed"]
    assert [e["case_id"] for e in events] == lost
    for event in read_events(tmp_path / EVENTS):
        check(event, "event", EVENTS)


@pytest.mark.parametrize("change", REGIMES)
def test_an_edit_of_a_weight_that_does_not_exist_stops_the_run_and_names_editor_and_case(lm, tmp_path, change):
    before = lm.weight_hash()
    with pytest.raises(KnbenchError, match=r"^editor 'push', cases? '.*': .* has no parameter 'no.such.weight'$"):
        run(lm, [failing("apply")], [towns(CASES)], tmp_path, replace(SETTINGS, **change))
    assert lm.weight_hash() == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KnbenchError("no corpus there"), "^no corpus there$"),
        (ZeroDivisionError("in the middle"), "^editor 'push' cannot be prepared: ZeroDivisionError: in the middle$"),
    ],
)
def test_an_editor_that_cannot_be_prepared_stops_before_anything_is_written(lm, tmp_path, error, said):
    class Unprepared(Push):
        def prepare(self, lm, reporter):
            raise error

    before = lm.weight_hash()
    with pytest.raises(KnbenchError, match=said):
        run(lm, [Unprepared], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert not (tmp_path / "a").exists()
    assert lm.weight_hash() == before


def test_out_of_memory_in_an_edit_is_a_record_that_is_tried_again_when_asked(lm, whole, tmp_path):
    class Short(Push):
        memory = False

        def edit(self, lm, requests):
            if not Short.memory and requests[0].subject == "Mexico 3":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().edit(lm, requests)

    (folder,) = run(lm, [Short], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert load_result(folder / "result.json")["records"]["failures"] == {"OutOfMemoryError": 1}
    Short.memory = True
    (folder,) = run(lm, [Short], [towns(CASES)], tmp_path / "a", replace(SETTINGS, retry_failed=True))
    assert measured(folder) == whole


def test_what_a_killed_process_left_half_written_is_cleared_away(lm, whole, tmp_path):
    (folder,) = run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    (folder / ".result.json.abc.tmp").write_text("{")
    (tmp_path / "a" / EVENTS).open("a").write('{"run": "0123')
    run(lm, [Push], [towns(CASES)], tmp_path / "a", SETTINGS)
    assert not list(folder.glob("*.tmp"))
    events = read_events(tmp_path / "a" / EVENTS)
    assert [e["event"] for e in events if e["event"].startswith("run_")] == ["run_started", "run_finished"] * 2
    assert len({e["run"] for e in events}) == 2
    assert len(events) == len((tmp_path / "a" / EVENTS).read_text().splitlines())


def test_the_log_tells_of_a_disk_that_is_full(tmp_path, monkeypatch):
    log = EventLog(tmp_path / EVENTS)
    monkeypatch.setattr(
        type(tmp_path), "open", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space"))
    )
    with pytest.raises(OSError, match="No space") as caught:
        log.note("run_finished")
    assert caught.value.filename == str(tmp_path / EVENTS)


def test_status_shares_the_time_left_among_workers(lm, tmp_path, capsys):
    class Stops(Push):
        def edit(self, lm, requests):
            if requests[0].subject == "Susan 9":
                raise KeyboardInterrupt
            return super().edit(lm, requests)

    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [towns(CASES)], tmp_path, SETTINGS)
    (alone,) = json.loads(called(capsys, "status", tmp_path, "--json")[1])
    EventLog(tmp_path / EVENTS).note("run_started", executor="local", workers=4, cases=CASES, done=9)
    (shared,) = json.loads(called(capsys, "status", tmp_path, "--json")[1])
    assert (alone["workers"], shared["workers"]) == (1, 4)
    assert alone["seconds_left"] == pytest.approx(3 * alone["seconds_a_case"])
    assert shared["seconds_left"] == pytest.approx(alone["seconds_left"] / 4)
    assert (
        "9 of 12 cases done, 0 of them failed, 3 remaining, time left 0:00:00" in called(capsys, "status", tmp_path)[1]
    )
