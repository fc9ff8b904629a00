"""Choice of executor: this process, several on this machine, or workers on a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import Task
from ..core.settings import RunSettings
from ..core.split import LITE_CASES, split_cases
from ..models.devices import AUTO
from .plan import BLOCK

if TYPE_CHECKING:
    from .evaluator import RunSpec, WorkerDevice
    from .runner import Executor

Kind = Literal["auto", "serial", "local", "ray"]
KINDS: tuple[Kind, ...] = ("auto", "serial", "local", "ray")
DEFAULT_LOCAL_WORKERS = 2
SMALL_RUN = 24
"""Edits below which a run has one process, because workers import torch and load the model first."""
SMALL_MODEL = 64 * 2**20
"""Bytes of weights below which a run has one process: an edit of a toy model takes milliseconds."""
WORKER_BYTES = 2**30
"""Memory of a worker besides three times the weights: libraries, activations, prepared statistics."""


@dataclass(frozen=True)
class ExecutorConfig:
    """How a run is executed. It affects the time of the run and, by rounding, the last bits of its numbers.

    Attributes:
        kind: ``serial``: this process; ``local``: several processes on this machine; ``ray``: a Ray cluster; ``auto``:
            what :func:`choose` returns.
        workers: number of workers, each with its own model; None takes two, and on Ray one per GPU or machine.
        address: of the Ray cluster; None starts one on this machine for the run.
        threads: CPU threads of each worker; None divides the cores among the workers. The number changes the order of
            floating-point sums.
        device: a torch device; ``cuda`` distributes the workers of a machine over its GPUs. ``auto``, on a Ray cluster
            only, is a GPU where the worker has one.

    Raises:
        KnbenchError: the settings contradict each other.
    """

    kind: Kind = "serial"
    workers: int | None = None
    address: str | None = None
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.kind == "serial" and self.workers:
            raise KnbenchError("--workers needs --executor auto, local or ray")
        if self.kind != "ray" and self.address:
            raise KnbenchError("--address needs --executor ray")


@contextmanager
def open_executor(config: ExecutorConfig) -> Iterator[Callable[[RunSpec], Executor]]:
    """``with open_executor(config) as start: executor = start(spec)`` starts the workers, and stops them at the end.

    Workers start at once and import their libraries while the caller builds the run spec.

    Raises:
        KnbenchError: the workers cannot be started.
    """
    if config.kind == "serial":
        yield lambda spec: _serial(config, spec)
    elif config.kind == "local":
        from .workers.local import local_pool

        with _interrupted_by_sigterm(), local_pool(config.workers or DEFAULT_LOCAL_WORKERS) as pool:
            yield lambda spec: pool.configure(spec, _local_devices(config, pool.workers))
    else:
        from .workers.ray import ray_pool

        use_gpus = None if config.device == AUTO else config.device.startswith("cuda")
        with _interrupted_by_sigterm(), ray_pool(config.address, config.workers, use_gpus=use_gpus) as pool:
            yield lambda spec: pool.configure(spec, [_device(config)] * pool.workers)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM stop the workers and the run as Ctrl-C does. Without it, this process would end at once."""
    if threading.current_thread() is not threading.main_thread():  # others cannot set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _device(config: ExecutorConfig) -> WorkerDevice:
    from .evaluator import WorkerDevice

    return WorkerDevice(config.device, config.threads)


def _serial(config: ExecutorConfig, spec: RunSpec) -> Executor:
    from .runner import Serial

    return Serial(spec.build_evaluator(_device(config), Reporter()))


def _local_devices(config: ExecutorConfig, workers: int) -> list[WorkerDevice]:
    """Return the device of each worker. ``cuda`` assigns the GPUs in turn."""
    import torch

    threads = config.threads or max(1, torch.get_num_threads() // workers)
    device = dataclasses.replace(_device(config), threads=threads)
    if config.device != "cuda":
        return [device] * workers
    gpus = torch.cuda.device_count()
    return [dataclasses.replace(device, device=f"cuda:{number % gpus}") for number in range(workers)]


@dataclass(frozen=True)
class Machine:
    """The part of a machine that a run may use.

    Attributes:
        cores: number of CPU cores of this process.
        memory: bytes of main memory that are available.
    """

    cores: int
    memory: int

    @classmethod
    def here(cls) -> Machine:
        """Return this machine."""
        import psutil

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(cores, psutil.virtual_memory().available)


def size_of(tasks: Sequence[Task], editors: int, settings: RunSettings) -> tuple[int, int]:
    """Return an upper bound of the number of edits of a run, and of the units that can be measured at once.

    Args:
        tasks: the tasks.
        editors: number of editors.
        settings: settings of the run.
    """
    edits = units = 0
    for task in tasks:
        cases = len(split_cases(task.name, task.cases, settings.split))
        if settings.subset == "lite":
            cases = min(cases, LITE_CASES)
        cases = min(cases, settings.sequential or cases, settings.limit or cases)
        edits += cases * editors
        units += editors * (1 if settings.sequential else -(-cases // max(BLOCK, settings.batch_edits or 1)))
    return edits, units


def choose(config: ExecutorConfig, edits: int, units: int, model_bytes: int | None, machine: Machine) -> ExecutorConfig:
    """Return the executor of a run.

    On CPU a second worker nearly doubles the number of edits, and a second thread does not. Workers therefore have one
    thread each. A run on another device has one process.

    Args:
        config: the user's choice; returned as it is unless its kind is ``auto``.
        edits: number of edits of the run.
        units: number of units that can be measured at once.
        model_bytes: bytes of the weights in memory; None if they are unknown, as of a model that is not downloaded.
        machine: the machine.

    Returns:
        A configuration whose kind is not ``auto``.
    """
    if config.kind != "auto":
        return config
    serial = dataclasses.replace(config, kind="serial", workers=None)
    if config.workers is None:
        if config.device != "cpu" or edits < SMALL_RUN or model_bytes is None or model_bytes < SMALL_MODEL:
            return serial
        workers = min(machine.cores, units, machine.memory // (3 * model_bytes + WORKER_BYTES))
    else:
        workers = config.workers
    if workers < 2:
        return serial
    threads = config.threads or (1 if config.device == "cpu" else None)
    return dataclasses.replace(config, kind="local", workers=workers, threads=threads)
