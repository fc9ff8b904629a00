"""``--executor auto``: chooses between one process and several workers from the size of the run and of the machine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.schema import Task
from ...core.settings import RunSettings
from ...core.split import LITE_CASES, split_cases
from ..plan import BLOCK
from .config import ExecutorConfig

SMALL_RUN = 64
"""Edits below which a run has one process, because workers import torch and load the model first."""
SMALL_MODEL = 64 * 2**20
"""Bytes of weights below which a run has one process: an edit of a toy model takes milliseconds."""
WORKER_BYTES = 2**30
"""Memory of a worker besides three times the weights: libraries, activations, prepared statistics."""


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
