"""Choice of executor: this process, several on this machine, or workers on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...core.errors import KnbenchError
from ...models.devices import AUTO

if TYPE_CHECKING:
    from ..evaluator import RunSpec, WorkerDevice
    from ..runner import Executor

Kind = Literal["auto", "serial", "local", "ray"]
KINDS: tuple[Kind, ...] = ("auto", "serial", "local", "ray")
DEFAULT_LOCAL_WORKERS = 2


@dataclass(frozen=True)
class ExecutorConfig:
    """How a run is executed. It affects the time of the run and, by rounding, the last bits of its numbers.

    Attributes:
        kind: ``serial``: this process; ``local``: several processes on this machine; ``ray``: a Ray cluster; ``auto``:
            what :func:`~.choice.choose` returns.
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
        from .local import local_pool

        workers = config.workers or DEFAULT_LOCAL_WORKERS
        with local_pool(workers) as pool:
            yield lambda spec: pool.configure((spec, _local_device(config, workers)))
    else:
        from .ray import ray_pool

        use_gpus = None if config.device == AUTO else config.device.startswith("cuda")
        with ray_pool(config.address, config.workers, use_gpus=use_gpus) as (ray, pool):

            def start(spec: RunSpec) -> Executor:
                from ..evaluator import WorkerDevice

                device = WorkerDevice(config.device, config.threads)
                return pool.configure(ray.put(ray.cloudpickle.dumps((spec, device))))

            yield start


def _serial(config: ExecutorConfig, spec: RunSpec) -> Executor:
    from ...core.progress import Reporter
    from ..evaluator import WorkerDevice
    from ..runner import Serial

    return Serial(spec.build_evaluator(WorkerDevice(config.device, config.threads), Reporter()))


def _local_device(config: ExecutorConfig, workers: int) -> WorkerDevice:
    import torch

    from ..evaluator import WorkerDevice

    return WorkerDevice(config.device, config.threads or max(1, torch.get_num_threads() // workers))
