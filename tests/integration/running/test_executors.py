"""Several workers on one run: the numbers of a single one, each line once, and what is said when it cannot be."""

from __future__ import annotations

import builtins
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.registry import EDITORS, registered
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.running import losses
from knbench.benchmark.running.evaluator import Evaluator, WorkerDevice
from knbench.benchmark.running.events import EVENTS, read_events
from knbench.benchmark.running.executors import ExecutorConfig, open_executor
from knbench.benchmark.running.plan import BLOCK, CasesStarted, OutputLine, Plan, Unit, WorkQueue, units_of
from knbench.benchmark.running.runner import execute
from knbench.benchmark.running.workers.messages import Done
from knbench.benchmark.running.workers.pool import WorkerPool
from knbench.benchmark.running.workers.worker import Worker
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome

from tests.conftest import called
from tests.files import load_result
from tests.workers import Broken, DifferentHere, Joint, Meet, Push, measured, run_with, spec

SETTINGS = RunSettings(batch_size=8, new_tokens=2, editor_args={"rome": {"steps": "2"}})


class ProcessLost(Exception):
    """The process of a worker ended."""


class Threaded:
    """A worker in a thread of this process, whose loss is simulated.

    Args:
        run_spec: the run.
        losses_after: for each start, the number of lines after which the worker is lost.
        fatal_cases: ids of the cases that end the worker when they start.
        duplicates: whether each line arrives twice.
    """

    def __init__(self, run_spec, losses_after=(), fatal_cases=(), duplicates=False):
        self.run_spec, self.losses_after, self.fatal_cases, self.duplicates = (
            run_spec,
            list(losses_after),
            set(fatal_cases),
            duplicates,
        )
        self.starts, self.measured = 0, []

    def start(self):
        self.starts += 1
        self.left = self.losses_after.pop(0) if self.losses_after else None
        self.ended = False
        self.worker, self.calls = Worker(), ThreadPoolExecutor(1)

    def call(self, method, *args):
        return self.calls.submit(self.receive if method == "receive" else getattr(self.worker, method), *args)

    def receive(self):
        messages = []
        for message in [] if self.ended else self.worker.receive():
            if isinstance(message, OutputLine):
                if self.left == 0:
                    self.ended = True
                    break
                self.left = self.left and self.left - 1
                self.measured.append(message.line.case_id)
                messages += [message] * self.duplicates
            messages.append(message)
            self.ended = isinstance(message, CasesStarted) and bool(self.fatal_cases & set(message.case_ids))
        if not messages:
            raise ProcessLost("was killed by SIGKILL")
        return messages

    def loss(self, error):
        if not isinstance(error, ProcessLost):
            return None
        self.start()
        return str(error)

    def stop(self):
        self.calls.shutdown(wait=False)


def alone(output, settings, *editors, cases=20):
    return run_with("serial", spec(settings, *editors, cases=cases), output)


def run_workers(workers, output, settings=SETTINGS):
    with WorkerPool("local", workers, pickle.dumps) as pool:
        pool.configure(workers[0].run_spec, [WorkerDevice(threads=1)] * len(workers))
        return [run.folder for run in execute(pool, output, settings, Reporter())]


def kinds(output):
    return [event["event"] for event in read_events(output / EVENTS)]


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.alone])])
def test_two_workers_give_the_records_of_one_process(kind, tmp_path):
    if kind == "ray":
        pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")
    settings = replace(SETTINGS, known_only=True)
    # Of the cases a random model knows about half, which differs between processors; two blocks are needed.
    one = alone(tmp_path / "one", settings, NoEdit, Rome, Meet, cases=60)
    assert len(measured(one[0])) > 2 * BLOCK
    (tmp_path / "meeting").mkdir()
    met = replace(settings, editor_args={**SETTINGS.editor_args, "meet": {"folder": str(tmp_path / "meeting")}})
    many = run_with(kind, spec(met, NoEdit, Rome, Meet, cases=60), tmp_path / "many")
    for a, b in zip(one, many, strict=True):
        assert measured(a) == measured(b)
        assert load_result(a / "result.json")["summary"] == load_result(b / "result.json")["summary"]
    assert load_result(many[0] / "result.json")["environment"]["executor"] == kind
    workers = {e["worker"] for e in read_events(tmp_path / "many" / EVENTS) if e["event"] == "case_done"}
    assert workers == {0, 1}


@pytest.mark.parametrize("change", [{}, {"batch_edits": 3}, {"sequential": 12, "checkpoints": (5,)}])
def test_a_lost_worker_s_cases_are_measured_elsewhere_and_stand_once(change, tmp_path):
    settings = replace(SETTINGS, **change)
    run_spec = spec(settings, Push)
    (one,) = alone(tmp_path / "one", settings, Push)
    workers = [Threaded(run_spec, losses_after=[3, 0, 5]), Threaded(run_spec, losses_after=[2, 4], duplicates=True)]
    (many,) = run_workers(workers, tmp_path / "many", settings)
    assert measured(one) == measured(many)
    if "sequential" in change:
        again = [measured(f, "checkpoints.jsonl", "checkpoint") for f in (one, many)]
        assert again[0] == again[1]
    assert sum(worker.starts for worker in workers) > 2
    assert kinds(tmp_path / "many").count("worker_lost") == sum(worker.starts - 1 for worker in workers)
    assert kinds(tmp_path / "many")[-1] == "run_finished"


@pytest.mark.parametrize(
    ("change", "failed"), [({}, 1), ({"batch_edits": 3}, 3), ({"sequential": 12, "checkpoints": (5,)}, 1)]
)
@pytest.mark.parametrize("editor", [Push, Joint])
def test_a_case_that_ends_its_workers_is_recorded_as_failed_after_three_attempts(tmp_path, change, failed, editor):
    settings = replace(SETTINGS, **change)
    run_spec = spec(settings, editor, cases=12)
    workers = [Threaded(run_spec, fatal_cases=["Mexico 3"]) for _ in range(2)]
    (folder,) = run_workers(workers, tmp_path, settings)
    failures = {r["case_id"]: r["failure"] for r in measured(folder) if r["failure"]}
    assert len(failures) == failed
    assert failures["Mexico 3"]["type"] == "WorkerLost"
    assert failures["Mexico 3"]["message"].endswith("was killed by SIGKILL, in 3 attempts")
    assert 3 <= kinds(tmp_path).count("worker_lost") <= 6  # three together and three alone


def test_a_run_with_workers_goes_on_where_another_stopped(tmp_path, monkeypatch):
    (whole,) = alone(tmp_path / "whole", SETTINGS, Push)
    monkeypatch.setattr(losses, "MAX_LOSSES", 3)
    run_spec = spec(SETTINGS, Push)
    with pytest.raises(KnbenchError, match=r"4 workers were lost in a row .* continue"):
        run_workers([Threaded(run_spec, losses_after=[5] + 9 * [0])], tmp_path / "a")
    assert kinds(tmp_path / "a")[-1] == "run_stopped"
    assert len(measured(tmp_path / "a/push/towns")) == 5
    worker = Threaded(run_spec)
    (resumed,) = run_workers([worker], tmp_path / "a")
    assert measured(resumed) == measured(whole)
    assert len(worker.measured) == len(measured(whole)) - 5


def test_a_run_does_not_wait_for_workers_that_it_does_not_need(tmp_path):
    run_spec, needed = spec(SETTINGS, Push, cases=4), Event()
    slow = Threaded(run_spec)
    slow.receive = lambda: needed.wait(60) and [Done()]
    (folder,) = run_workers([Threaded(run_spec), slow], tmp_path)
    assert len(measured(folder)) == 4
    needed.set()


def test_a_worker_that_prepared_something_else_is_refused(tmp_path):
    run_spec = spec(SETTINGS, DifferentHere)
    with pytest.raises(KnbenchError, match="'different' has other weights or prepared values here"):
        run_workers([Threaded(run_spec), Threaded(run_spec)], tmp_path)


def test_an_editor_that_leaves_the_model_changed_stops_the_run(tmp_path):
    with pytest.raises(KnbenchError, match="'broken' left the model's weights changed"):
        run_workers([Threaded(spec(SETTINGS, Broken))], tmp_path)


def test_a_mistake_of_the_program_tells_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "measure", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match=r"(?s)division by zero.*in a worker:.*Traceback"):
        run_workers([Threaded(spec(SETTINGS, Push))], tmp_path)


def plan(cases, joint_batch_size):
    return Plan({}, {"towns": [str(i) for i in range(cases)]}, joint_batch_size, {})


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (SETTINGS, {"one": [8, 8, 4], "three": [9, 9, 2], "eight": [8, 8, 4]}),
        (replace(SETTINGS, batch_edits=5), {"one": [10, 10], "three": [10, 10], "eight": [10, 10]}),
        (replace(SETTINGS, sequential=20), {"one": [20], "three": [20], "eight": [20]}),
    ],
)
def test_units_never_part_cases_that_are_edited_together(settings, sizes):
    units = units_of(plan(20, {"one": 1, "three": 3, "eight": 8}), settings)
    found = {}
    for unit in units:
        found.setdefault(unit.editor, []).append(unit)
    assert {name: [len(u.indices) for u in part] for name, part in found.items()} == sizes
    for part in found.values():
        assert [i for unit in part for i in unit.indices] == list(range(20))


def test_a_worker_takes_first_what_it_has_asked_the_unedited_model_for():
    a, same, b, c = (
        Unit(editor, "towns", first, first + 8) for editor, first in (("e", 0), ("f", 0), ("e", 8), ("e", 16))
    )
    waiting = WorkQueue([a, same, b, c])
    assert [waiting.take(worker) for worker in (0, 1, 0, 0)] == [a, b, same, c]
    assert not waiting
    waiting = WorkQueue([a, same])
    assert [waiting.take(worker) for worker in (0, 1)] == [a, same]  # rather than none
    waiting = WorkQueue([a, b, c])
    assert [waiting.take(0), waiting.take(1)] == [a, b]
    waiting.put_back(b, 1)
    assert [waiting.take(1), waiting.take(1)] == [b, c]


def test_what_cannot_be_sent_to_a_worker_is_told_at_once():
    unsendable = replace(spec(SETTINGS, Push), load=lambda _: None)
    with (
        open_executor(ExecutorConfig("local", workers=1, threads=1)) as start_executor,
        pytest.raises(Exception, match="pickle"),
    ):
        start_executor(unsendable).plan(None, Reporter())


def test_the_schedule_on_paper_knows_every_editor_and_more_cards_take_less_time():
    from tests.performance import schedule

    assert set(schedule.METHODS) == {
        name for name, point in registered(EDITORS).items() if point.value.startswith("knbench.") and name != "none"
    }
    one, four = (schedule.simulate(cards, schedule.Assumptions(cases=80, prepare_minutes=0)) for cards in (1, 4))
    assert one.hours / 4 <= four.hours < one.hours / 3
    assert sum(one.gpu_hours.values()) == pytest.approx(one.hours)
    assert sum(four.gpu_hours.values()) == pytest.approx(4 * four.hours)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--executor", "serial", "--workers", "2"], "--workers needs --executor auto, local or ray"),
        (["--executor", "local", "--address", "auto"], "--address needs --executor ray"),
        (["--executor", "ray"], "install it with: pip install 'knbench[ray]'"),
        (["--executor", "cloud"], "'cloud' is not one of 'auto', 'serial', 'local', 'ray'"),
        (["--executor", "local", "--workers", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, tmp_path, monkeypatch, arguments, part):
    whole = builtins.__import__

    def without_ray(name, *rest, **more):
        if name == "ray" and not any(rest[3:]):  # a relative import has a level
            raise ImportError(name)
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    status, _, said = called(
        capsys, "run", "--editors", "none", "--tasks", "capital", "--output", tmp_path / "out", *arguments
    )
    assert status == 2
    assert len(said.strip().splitlines()) == 1
    assert part in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_where_no_cluster_is_is_told_at_once(address, capsys, tmp_path):
    pytest.importorskip("ray", reason="install it with: pip install 'knbench[ray]'")
    arguments = ["--editors", "none", "--tasks", "capital", "--executor", "ray", "--output", tmp_path / "out"]
    status, _, said = called(capsys, "run", *arguments, "--address", address)
    assert status == 2
    (line,) = said.strip().splitlines()
    assert line.startswith(f"knbench: --address '{address}': no Ray cluster answers there: ")
    assert not (tmp_path / "out").exists()
