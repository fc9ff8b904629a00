"""What worker processes of tests are given: here, and not in a test module, so that they can be sent it by name."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Task
from knbench.benchmark.editing import Edit, Editor, NoConfig
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.running.evaluator import RunSpec
from knbench.benchmark.running.executors import ExecutorConfig, Kind, open_executor
from knbench.benchmark.running.runner import execute
from knbench.editors.rome import Rome

from tests.files import json_lines


def tiny_model(device: str) -> Any:
    lm, own = untrained("llama"), torch.Generator().manual_seed(0)
    for parameter in lm.model.parameters():  # threads that load at the same time share the global generator
        parameter.normal_(std=0.3, generator=own)
    return lm


class Push(Editor[NoConfig]):
    """Adds a little to one matrix, the more the longer the subject; draws no random numbers."""

    name, summary, Config = "push", "for tests", NoConfig

    def edit(self, lm: Any, requests: Any) -> Edit:
        return pushed(lm, requests)


def pushed(lm: Any, requests: Any) -> Edit:
    name = lm.mlp_weight_name(1)
    return Edit(weights={name: lm.parameter(name).detach() + sum(0.001 * len(r.subject) for r in requests)})


@dataclass(frozen=True)
class Gate:
    """Where the gate stands: a file; while it is there, later cases wait before it."""

    file: str = ""


class SlowPush(Editor[Gate]):
    """Takes its time over each edit, so that there is some to be killed in, and stops before a gate.

    So a run cannot be over before those who put up the gate have done what they wanted, however fast the machine.
    """

    name, summary, Config = "slow-push", "for tests", Gate
    seconds: ClassVar[float] = 0.2
    free: ClassVar[int] = 32

    def edit(self, lm: Any, requests: Any) -> Edit:
        time.sleep(self.seconds)
        until = time.monotonic() + 300
        while self._later(requests) and Path(self.config.file).exists() and time.monotonic() < until:
            time.sleep(0.05)
        return pushed(lm, requests)

    def _later(self, requests: Any) -> bool:
        return bool(self.config.file) and any(int(r.subject.split()[-1]) >= self.free for r in requests)


class QuickPush(SlowPush):
    """Gives what the slow one gives."""

    seconds = 0.0


@dataclass(frozen=True)
class Meeting:
    """Where workers leave word of each other: a folder; without one nobody waits."""

    folder: str = ""


class Meet(Push):
    """Waits until two processes edit, so that none has done everything before the other one has loaded."""

    name, Config = "meet", Meeting

    def edit(self, lm: Any, requests: Any) -> Edit:
        until = time.monotonic() + 120
        if self.config.folder:
            met = Path(self.config.folder)
            (met / str(os.getpid())).touch()
            while len([*met.iterdir()]) < 2:
                time.sleep(0.05)
                if time.monotonic() > until:
                    (met / "nobody came").touch()  # and no edit waits again
        return pushed(lm, requests)


class Broken(Push):
    """Leaves the model changed."""

    name = "broken"

    def edit(self, lm: Any, requests: Any) -> Edit:
        lm.parameter(lm.mlp_weight_name(0)).data[0, 0] += 1e-3
        return Edit()


class Joint(Push):
    """Edits four cases together."""

    name, joint_batch_size = "joint", 4


class Deadly(Push):
    """Ends its process at once when it edits one of the cases."""

    name = "deadly"

    def edit(self, lm: Any, requests: Any) -> Edit:
        if requests[0].subject == "Mexico 3":
            os.kill(os.getpid(), signal.SIGKILL)
        return pushed(lm, requests)


class DifferentHere(Push):
    """Prepares something else in each worker."""

    name = "different"

    def prepare(self, lm: Any, reporter: Any) -> Any:
        return {"model": id(lm)}


def towns(cases: int) -> Task:
    """A task of so many cases; of every five, one subject is like another's.

    Every second one is asked the other way round, so that whatever a random model prefers, it knows some of them.
    """
    names = [f"{['Canada', 'Italy', 'France', 'Mexico', 'Susan'][i % 5]} {i}" for i in range(cases)]
    found = []
    for number, name in enumerate(names):
        new, true = ("Rome", "Ottawa") if number % 2 else ("Ottawa", "Rome")
        request = EditRequest("The capital of {} is", name, new, true)
        probes = (
            Probe("reliability", "completion", request.text, new, true, "new"),
            Probe("neighbourhood", "completion", f"{name} is", "physics", "Rome", "unchanged"),
        )
        found.append(Case(name, request, probes))
    text = {"title": "T", "description": "d", "licence": "CC0-1.0", "citation": "c", "source": "s", "relation": "r"}
    criteria = ("reliability", "neighbourhood")
    return Task(name="towns", version=1, kind="fact", criteria=criteria, cases=tuple(found), **text)


class Unpicklable(OSError):
    """An error of a file as libraries derive it: its constructor has other arguments, and it cannot be unpickled."""

    def __init__(self, message: str, *, response: int) -> None:
        super().__init__(f"{message} ({response})")


@dataclass(frozen=True)
class RaisesOnLoad:
    """Loads no model: raises an error of one kind."""

    kind: str

    def __call__(self, device: str) -> Any:
        if self.kind == "cause":
            try:
                raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
            except ModuleNotFoundError as error:
                raise KnbenchError("cannot read the file") from error
        raise {
            "own": KnbenchError("model 'x' has no layers; choose another one"),
            "file": OSError(errno.ENOSPC, "No space left on device", "/cache/x"),
            "library": Unpicklable("the hub does not answer", response=503),
            "module": ModuleNotFoundError("No module named 'gguf'", name="gguf"),
            "exit": SystemExit(3),
            "bug": ValueError("shapes differ"),
        }[self.kind]


def spec(settings: Any, *editors: type[Editor[Any]], cases: int = 20) -> RunSpec:
    return RunSpec(tiny_model, editors or (Rome,), [towns(cases)], settings)


def measured(folder: Path, name: str = "records.jsonl", kind: str = "record") -> list[dict[str, Any]]:
    """A folder's lines without what time and machine decide."""
    return [{k: v for k, v in row.items() if k != "timings"} for row in json_lines(folder / name)]


def run_with(kind: Kind, run_spec: RunSpec, output: Path) -> list[Path]:
    """Run with an executor, of two workers where it has any, of one thread each."""
    with open_executor(ExecutorConfig(kind, workers=None if kind == "serial" else 2, threads=1)) as start_executor:
        return [run.folder for run in execute(start_executor(run_spec), output, run_spec.settings, Reporter())]


def run_alone(run_spec: RunSpec, output: Path) -> None:
    """Run in this process."""
    run_with("serial", run_spec, output)
