"""Runs whose processes are killed at random moments end with the same records as uninterrupted runs."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.results.json_schema import check
from knbench.benchmark.running.events import EVENTS, read_events
from knbench.editors.rome import Rome

from tests.files import load_result
from tests.workers import Push, QuickPush, SlowPush, measured, run_alone, run_with, spec, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.alone]
SETTINGS = RunSettings(batch_size=8, new_tokens=0, editor_args={"rome": {"steps": "2"}})
REGIMES = {
    "single": (SETTINGS, 7),
    "batch": (replace(SETTINGS, batch_edits=4), 6),
    "sequential": (replace(SETTINGS, sequential=12, checkpoints=(5,)), 7),
}
"""Settings and number of kills, by regime; twenty kills in all."""
CASES = 40
KILLS = 3
"""Number of times that one of two workers is killed."""


def start(output, settings):
    """Start a run in a process that is forked from one with all imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm"])
    process = context.Process(target=run_alone, args=(spec(settings, Push, Rome, cases=CASES), output))
    process.start()
    return process


def lines(output):
    """Return the lines of all records and checkpoints of a run without timings, by path."""
    lines_by_path = {}
    for path in sorted(output.rglob("*.jsonl")):
        if path.name != EVENTS:
            kind = {"records.jsonl": "record", "checkpoints.jsonl": "checkpoint"}[path.name]
            lines_by_path[path.relative_to(output)] = measured(path.parent, path.name, kind)
    return lines_by_path


def summaries(output):
    return [load_result(path)["summary"] for path in sorted(output.rglob("result.json"))]


@pytest.mark.parametrize("regime", list(REGIMES))
def test_killed_and_continued_run_equals_uninterrupted_run(regime, tmp_path):
    settings, kills = REGIMES[regime]
    start(tmp_path / "warm", settings).join()  # includes the imports, which must not count in the duration
    start_time = time.monotonic()
    start(tmp_path / "whole", settings).join()
    duration = time.monotonic() - start_time
    expected = lines(tmp_path / "whole")
    assert len(expected) == (4 if regime == "sequential" else 2)
    rng, killed_midway = random.Random(f"chaos {regime}"), 0
    for number in range(kills):
        output = tmp_path / str(number)
        process = start(output, settings)
        process.join(duration * rng.uniform(0.15, 0.85))
        process.kill()
        process.join()
        killed_midway += any(output.rglob("records.jsonl")) and len(list(output.rglob("result.json"))) < 2
        continued = start(output, settings)
        continued.join()
        assert continued.exitcode == 0
        assert lines(output) == expected
        assert summaries(output) == summaries(tmp_path / "whole")
        assert not list(output.rglob("*.tmp"))
        for event in read_events(output / EVENTS):
            check(event, "event", str(output))
    assert killed_midway >= kills // 2  # at least half of the kills came in the middle of a run


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.long)])
def test_repeatedly_killed_worker_is_replaced(kind, tmp_path):
    if kind == "ray":
        pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")
    gate = tmp_path / "gate"
    settings = replace(SETTINGS, editor_args={"slow-push": {"file": str(gate)}})
    slow_spec = spec(settings, SlowPush, cases=56)
    (whole,) = run_with("serial", replace(slow_spec, editors=[QuickPush]), tmp_path / "whole")
    gate.touch()
    stop, rng, killed, priorities = threading.Event(), random.Random(f"chaos {kind}"), [], set()

    def kill_worker():
        while len(killed) < KILLS and not stop.wait(0.05):
            pids = [e["pid"] for e in read_events(tmp_path / "many" / EVENTS) if e.get("worker") == 1 and "pid" in e]
            if pids and pids[-1] not in killed:
                time.sleep(rng.uniform(0.1, 1.0))
                priorities.add(psutil.Process(pids[-1]).nice())
                os.kill(pids[-1], signal.SIGKILL)
                killed.append(pids[-1])
        gate.unlink()

    thread = threading.Thread(target=kill_worker, daemon=True)
    thread.start()
    try:
        (many,) = run_with(kind, slow_spec, tmp_path / "many")
    finally:
        stop.set()
        thread.join()
    assert measured(many) == measured(whole)
    assert load_result(many / "result.json")["summary"] == load_result(whole / "result.json")["summary"]
    events = read_events(tmp_path / "many" / EVENTS)
    lost = [e for e in events if e["event"] == "worker_lost"]
    assert len(killed) == KILLS
    assert priorities == {psutil.Process().nice()}  # a worker with lower priority starves on a busy machine
    assert len(lost) >= len(killed) - 1  # the last kill may come after the last unit
    assert {e["worker"] for e in lost} == {1}
    starts = [(e["editor"], e["first"]) for e in events if e["event"] == "unit_started"]
    assert len(starts) > len(set(starts))  # units of the lost worker were started again
    done = [e["case_id"] for e in events if e["event"] == "case_done"]
    assert sorted(done) == sorted(record["case_id"] for record in measured(whole))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_the_command(sent, tmp_path):
    lm = tiny_model("cpu")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    command = [sys.executable, "-m", "knbench.benchmark", "run", "--model", str(tmp_path / "tiny"), "--editors", "ft"]
    command += ["--tasks", "capital", "--executor", "local", "--workers", "2", "--threads", "1"]
    command += ["--output", str(tmp_path / "out")]
    # A process group of its own, which receives the signal as a whole, as from Ctrl-C in a terminal.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def event_names():
        return [e["event"] for e in read_events(tmp_path / "out" / EVENTS)]

    deadline = time.monotonic() + 120
    while "case_done" not in event_names() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [e["pid"] for e in read_events(tmp_path / "out" / EVENTS) if e["event"] == "worker_ready"]
    assert pids
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)  # the command only; the workers must notice by themselves
    _, stderr = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "Traceback" not in stderr
    if sent != signal.SIGKILL:
        assert process.returncode == 130
        assert "leaked" not in stderr
        assert stderr.strip().splitlines()[-1].startswith("knbench: interrupted; finished cases are saved")
        assert event_names()[-1] == "run_stopped"
