"""Errors of workers reach the user as if the run had one process, and warnings are printed once."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.running.evaluator import RunSpec, WorkerDevice
from knbench.benchmark.running.events import EVENTS, read_events
from knbench.benchmark.running.executors import ExecutorConfig, open_executor
from knbench.benchmark.running.plan import CasesStarted, LinesWithdrawn
from knbench.benchmark.running.ray_cluster import LOOPBACK
from knbench.benchmark.running.runner import execute
from knbench.benchmark.running.workers import worker as worker_module
from knbench.benchmark.running.workers.messages import Done, Failed, Lost, Progress, WorkerTraceback, failed
from knbench.benchmark.running.workers.ray import ray_pool
from knbench.benchmark.running.workers.worker import Worker
from knbench.editors.none import NoEdit

from tests.conftest import called
from tests.files import load_result
from tests.workers import Deadly, Push, RaisesOnLoad, measured, spec, tiny_model, towns

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
KINDS = ["local", pytest.param("ray", marks=[pytest.mark.alone, pytest.mark.long])]


def message_of(kind):
    """The message of a worker that cannot load its model, as the run's process receives it."""
    worker, messages = Worker(), []
    run_spec = RunSpec(RaisesOnLoad(kind), (Push,), [towns(4)], SETTINGS)
    worker.set_up(pickle.dumps((run_spec, [WorkerDevice()])), 0)
    worker.execute(None)
    while not messages or isinstance(messages[-1], Progress):
        messages += worker.receive()
    received = pickle.loads(pickle.dumps(messages[-1]))
    assert isinstance(received, Failed)
    return received


@pytest.mark.parametrize(
    ("kind", "type_", "text"),
    [
        ("own", KnbenchError, "model 'x' has no layers; choose another one"),
        ("cause", KnbenchError, "cannot read the file"),
        ("file", OSError, "[Errno 28] No space left on device: '/cache/x'"),
        ("library", OSError, "the hub does not answer (503)"),
        ("module", ModuleNotFoundError, "No module named 'gguf'"),
        ("exit", KnbenchError, "a worker was ended by SystemExit: 3"),
    ],
)
def test_an_error_of_the_setup_is_sent_as_itself(kind, type_, text):
    error = message_of(kind).error
    assert (type(error), str(error)) == (type_, text)


def test_the_parts_of_an_error_that_the_command_line_reads_are_sent():
    error = message_of("file").error
    assert (error.errno, error.filename) == (errno.ENOSPC, "/cache/x")
    assert message_of("module").error.name == "gguf"
    cause = message_of("cause").cause
    assert (type(cause), cause.name) == (ModuleNotFoundError, "gguf")


def test_other_errors_have_the_traceback_of_the_worker():
    assert "in __call__" in str(message_of("bug").error)
    own = message_of("own")
    assert isinstance(own.cause, WorkerTraceback)
    assert "in __call__" in str(own.cause)


def test_a_mistake_of_the_program_is_no_error_of_the_user():
    assert isinstance(failed(KeyError("x")).error, RuntimeError)


def test_a_process_that_was_started_in_place_of_another_one_says_so():
    (message,) = Worker().receive()
    assert message == Lost("its process ended, and this one was started in its place")


def test_a_worker_waits_until_the_start_of_cases_has_arrived_and_when_it_is_far_ahead(monkeypatch):
    """What a case that ends its process was is known, and memory does not grow with the number of messages."""
    emitted = []

    class Emitting:
        def build_evaluator(self, device, reporter):
            return self

        def measure(self, item, emit):
            for number in range(400):
                emit(CasesStarted((str(number),)) if number == 3 else LinesWithdrawn({}))
                emitted.append(number)

    monkeypatch.setattr(worker_module, "_unpickled", lambda _: (Emitting(), [WorkerDevice()]))
    worker = Worker()
    worker.set_up(b"", 0)
    worker.execute(object())
    received = worker.receive()
    while CasesStarted(("3",)) not in received:
        received += worker.receive()
    time.sleep(0.1)
    assert emitted == [0, 1, 2]  # not yet acknowledged
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    worker.set_up(b"", 0)
    assert ended == [1]  # rather than to execute two commands at once
    received += worker.receive()
    time.sleep(0.1)
    assert len(emitted) < 200
    while received[-1] != Done():
        received += worker.receive()
    assert len(received) == 402  # and ready and done


def needs_ray(kind):
    if kind == "ray":
        pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_cannot_be_loaded_is_reported_as_itself(kind, tmp_path):
    needs_ray(kind)
    run_spec = replace(spec(SETTINGS, Push), load=RaisesOnLoad("own"))
    with (
        pytest.raises(KnbenchError, match=r"^model 'x' has no layers; choose another one$"),
        open_executor(ExecutorConfig(kind, workers=2, threads=1)) as start_executor,
    ):
        execute(start_executor(run_spec), tmp_path / "out", SETTINGS, Reporter())
    assert not (tmp_path / "out").exists()


BROKEN_MODULE = """
import sys
from pathlib import Path

from tests.workers import Push

if Path(__file__).with_name("broken").exists():
    {statement}


class Elsewhere(Push):
    name = "elsewhere"
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("sys.exit('not here')", "SystemExit: not here"),
        ("raise ImportError('no library here')", "ImportError: no library here"),
    ],
)
def test_a_module_that_a_worker_cannot_import_is_named(kind, statement, said, tmp_path, monkeypatch):
    needs_ray(kind)
    (tmp_path / "elsewhere.py").write_text(BROKEN_MODULE.format(statement=statement))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")  # of Ray's workers
    try:
        from elsewhere import Elsewhere

        (tmp_path / "broken").touch()
        with (
            pytest.raises(KnbenchError, match=rf"^a worker cannot be set up: {said}$"),
            open_executor(ExecutorConfig(kind, workers=1, threads=1)) as start_executor,
        ):
            execute(start_executor(spec(SETTINGS, Elsewhere)), tmp_path / "out", SETTINGS, Reporter())
    finally:
        sys.modules.pop("elsewhere", None)


@pytest.mark.slow
def test_a_library_that_a_worker_cannot_import_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('this torch is broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(KnbenchError, match=r"^a worker cannot be set up: ImportError: this torch is broken$"),
        open_executor(ExecutorConfig("local", workers=1, threads=1)) as start_executor,
    ):
        execute(start_executor(spec(SETTINGS, Push)), tmp_path / "out", SETTINGS, Reporter())


def conflicting(count):
    """A task whose second case edits the prompt of the first one to another target."""
    task = towns(count)
    first, second, *rest = task.cases
    second = replace(second, request=replace(first.request, target_new="Paris"))
    return replace(task, cases=(first, second, *rest))


@pytest.mark.parametrize(
    "kind",
    [
        "serial",
        pytest.param("local", marks=pytest.mark.slow),
        pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.alone, pytest.mark.long]),
    ],
)
def test_contradicting_edits_of_a_batch_are_named_once_by_the_main_process(kind, tmp_path, capfd):
    needs_ray(kind)
    registry._warned.clear()
    settings = replace(SETTINGS, batch_edits=4)
    run_spec = RunSpec(tiny_model, (NoEdit, Push), [conflicting(8)], settings)
    workers = None if kind == "serial" else 2
    with open_executor(ExecutorConfig(kind, workers=workers, threads=1)) as start_executor:
        execute(start_executor(run_spec), tmp_path, settings, Reporter())
    # Of the main process and of the workers, which share its stderr.
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "edit the prompt" in line]
    assert line == (
        "knbench: warning: task 'towns': cases 'Canada 0' and 'Italy 1' edit the prompt 'The capital of Canada 0 is' "
        "together, to 'Ottawa' and 'Paris'; at most one of the edits can hold"
    )


def test_a_plan_prints_no_warning(capsys):
    settings = replace(SETTINGS, batch_edits=4)
    run_spec = RunSpec(tiny_model, (Push,), [conflicting(8)], settings)
    plan = run_spec.build_evaluator(WorkerDevice(), Reporter()).plan({})
    assert len(plan.warnings) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_case_that_kills_its_process_fails_alone(kind, tmp_path):
    needs_ray(kind)
    run_spec = spec(SETTINGS, Deadly, cases=6)
    with open_executor(ExecutorConfig(kind, workers=1, threads=1)) as start_executor:
        (run,) = execute(start_executor(run_spec), tmp_path, SETTINGS, Reporter())
    failures = {record["case_id"]: record["failure"] for record in measured(run.folder) if record["failure"]}
    assert list(failures) == ["Mexico 3"]
    assert failures["Mexico 3"]["type"] == "WorkerLost"
    assert failures["Mexico 3"]["message"].endswith(", in 3 attempts")
    lost = [event["reason"] for event in read_events(tmp_path / EVENTS) if event["event"] == "worker_lost"]
    assert len(lost) == 3
    assert kind == "ray" or set(lost) == {"worker 0 was killed by SIGKILL"}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.long
def test_a_run_on_ray_gives_the_records_of_one_process(tmp_path, capsys):
    pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")
    arguments = ["run", "--model", "toy-gpt2", "--editors", "none,ft", "--tasks", "capital", "--limit", "20"]
    arguments += ["--threads", "1", "--json", "--output"]
    status, out, err = called(capsys, *arguments, tmp_path / "ray", "--executor", "ray", "--workers", "2")
    assert status == 0, err
    assert all(result["environment"]["executor"] == "ray" for result in json.loads(out))
    assert called(capsys, *arguments, tmp_path / "one")[0] == 0
    for editor in ("none", "ft"):
        ray, one = (tmp_path / name / editor / "capital" for name in ("ray", "one"))
        assert measured(ray) == measured(one)
        assert load_result(ray / "result.json")["summary"] == load_result(one / "result.json")["summary"]
    assert {e["worker"] for e in read_events(tmp_path / "ray" / EVENTS) if e["event"] == "worker_ready"} == {0, 1}


def listening():
    """Addresses on which a process of this machine listens, as (host, port), from the tables of the kernel."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            host, port = local.split(":")
            if state == "0A":
                found.add((host, int(port, 16)))
    return found


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="reads the socket tables of Linux")
def test_a_cluster_that_is_started_here_listens_on_loopback_alone():
    ray = pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")
    before = listening()
    with ray_pool(None, 1, use_gpus=False) as pool:
        (worker,) = pool._workers
        worker.call("set_up", b"", 0).result()  # the actor runs
        opened = listening() - before
        assert {node["NodeManagerAddress"] for node in ray.nodes()} == {LOOPBACK}
    local = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    assert opened
    assert [(host, port) for host, port in opened if host not in local] == []
