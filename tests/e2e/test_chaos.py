"""Runs that are killed, again and again, at moments nobody chose: they end with the records of one left in peace."""

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
from knbench.benchmark.results.documents import load_result
from knbench.benchmark.results.json_schema import check
from knbench.benchmark.running.events import EVENTS, read_events
from knbench.editors.rome import Rome

from tests.workers import Push, QuickPush, SlowPush, measured, run_alone, run_with, spec, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.alone]
SETTINGS = RunSettings(batch_size=8, new_tokens=0, editor_args={"rome": {"steps": "2"}})
REGIMES = {
    "single": (SETTINGS, 7),
    "batch": (replace(SETTINGS, batch_edits=4), 6),
    "sequential": (replace(SETTINGS, sequential=12, checkpoints=(5,)), 7),
}
"""Settings, and how many of the twenty moments."""
CASES = 40
KILLS = 3
"""Of one of two workers."""


def start(output, settings):
    """Run in a process of its own, forked from one that has imported everything and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm"])
    process = context.Process(target=run_alone, args=(spec(settings, Push, Rome, cases=CASES), output))
    process.start()
    return process


def lines(output):
    """Everything a run wrote, without timings."""
    found = {}
    for path in sorted(output.rglob("*.jsonl")):
        if path.name != EVENTS:
            kind = {"records.jsonl": "record", "checkpoints.jsonl": "checkpoint"}[path.name]
            found[path.relative_to(output)] = measured(path.parent, path.name, kind)
    return found


def summaries(output):
    return [load_result(path)["summary"] for path in sorted(output.rglob("result.json"))]


@pytest.mark.parametrize("regime", list(REGIMES))
def test_a_run_killed_at_any_moment_ends_as_if_it_was_not(regime, tmp_path):
    settings, moments = REGIMES[regime]
    start(tmp_path / "warm", settings).join()  # the first one of all pays for the imports
    began = time.monotonic()
    start(tmp_path / "whole", settings).join()
    took = time.monotonic() - began
    whole = lines(tmp_path / "whole")
    assert len(whole) == (4 if regime == "sequential" else 2)
    rng, halfway = random.Random(f"chaos {regime}"), 0
    for moment in range(moments):
        output = tmp_path / str(moment)
        process = start(output, settings)
        process.join(took * rng.uniform(0.15, 0.85))
        process.kill()
        process.join()
        halfway += any(output.rglob("records.jsonl")) and len(list(output.rglob("result.json"))) < 2
        again = start(output, settings)
        again.join()
        assert again.exitcode == 0
        assert lines(output) == whole
        assert summaries(output) == summaries(tmp_path / "whole")
        assert not list(output.rglob("*.tmp"))
        for event in read_events(output / EVENTS):
            check(event, "event", str(output))
    assert halfway >= moments // 2  # most moments were in the middle of it


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_one_of_two_workers_is_killed_again_and_again(kind, tmp_path):
    if kind == "ray":
        pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")
    gate = tmp_path / "gate"
    settings = replace(SETTINGS, editor_args={"slow-push": {"file": str(gate)}})
    cook = spec(settings, SlowPush, cases=56)
    (whole,) = run_with("serial", replace(cook, editors=[QuickPush]), tmp_path / "whole")
    gate.touch()
    stop, rng, killed, priorities = threading.Event(), random.Random(f"chaos {kind}"), [], set()

    def killing():
        while len(killed) < KILLS and not stop.wait(0.05):
            pids = [e["pid"] for e in read_events(tmp_path / "many" / EVENTS) if e.get("worker") == 1 and "pid" in e]
            if pids and pids[-1] not in killed:
                time.sleep(rng.uniform(0.1, 1.0))
                priorities.add(psutil.Process(pids[-1]).nice())
                os.kill(pids[-1], signal.SIGKILL)
                killed.append(pids[-1])
        gate.unlink()

    thread = threading.Thread(target=killing, daemon=True)
    thread.start()
    try:
        (many,) = run_with(kind, cook, tmp_path / "many")
    finally:
        stop.set()
        thread.join()
    assert measured(many) == measured(whole)
    assert load_result(many / "result.json")["summary"] == load_result(whole / "result.json")["summary"]
    events = read_events(tmp_path / "many" / EVENTS)
    lost = [e for e in events if e["event"] == "worker_lost"]
    assert len(killed) == KILLS
    assert priorities == {
        psutil.Process().nice()
    }  # a worker that gives way to everything stands still on a busy machine
    assert len(lost) >= len(killed) - 1  # the last may have been killed when all was done
    assert {e["worker"] for e in lost} == {1}
    starts = [(e["editor"], e["first"]) for e in events if e["event"] == "unit_started"]
    assert len(starts) > len(set(starts))  # what the lost worker had begun was begun again
    done = [e["case_id"] for e in events if e["event"] == "case_done"]
    assert sorted(done) == sorted(record["case_id"] for record in measured(whole))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_do_not_outlive_the_command(sent, tmp_path):
    lm = tiny_model("cpu")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    command = [sys.executable, "-m", "knbench.benchmark", "run", "--model", str(tmp_path / "tiny"), "--editors", "ft"]
    command += ["--tasks", "capital", "--executor", "local", "--workers", "2", "--threads", "1"]
    command += ["--output", str(tmp_path / "out")]
    # A group of its own, all of which hears of Ctrl-C, as from a terminal.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def seen():
        return [e["event"] for e in read_events(tmp_path / "out" / EVENTS)]

    deadline = time.monotonic() + 120
    while "case_done" not in seen() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [e["pid"] for e in read_events(tmp_path / "out" / EVENTS) if e["event"] == "worker_ready"]
    assert pids
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.kill()  # it alone; the workers find out by themselves
    _, said = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "Traceback" not in said
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert said.strip().splitlines()[-1].startswith("knbench: interrupted; what was measured is kept")
        assert seen()[-1] == "run_stopped"
