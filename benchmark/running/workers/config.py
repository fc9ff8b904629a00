"""Who measures a run: this process, several on this machine, or workers on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...core.errors import KnbenchError

if TYPE_CHECKING:
    from ..evaluator import RunSpec, WorkerDevice
    from ..runner import Executor

Kind = Literal["serial", "local", "ray"]
KINDS: tuple[Kind, ...] = ("serial", "local", "ray")


@dataclass(frozen=True)
class ExecutorConfig:
    """How a run is carried out; decides its time, and of its numbers the last bits.

    Attributes:
        kind: ``serial``: this process; ``local``: several on this machine; ``ray``: those of a Ray cluster.
        workers: how many, each with a model of its own; None takes two, and on Ray one per card or machine.
        address: of the Ray cluster; None starts one on this machine for the run.
        threads: of each worker; None shares out the processors. Sums come out otherwise with another number of them
            in the last bits.
        device: a torch device; ``cuda`` is dealt out among the workers of a machine.

    Raises:
        KnbenchError: what is asked for does not go together.
    """

    kind: Kind = "serial"
    workers: int | None = None
    address: str | None = None
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.kind == "serial" and self.workers:
            raise KnbenchError("--workers needs --executor local or --executor ray")
        if self.kind != "ray" and self.address:
            raise KnbenchError("--address needs --executor ray")


@contextmanager
def open_executor(config: ExecutorConfig) -> Iterator[Callable[[RunSpec], Executor]]:
    """``with engaged(staff) as brief: executor = brief(recipe)`` has the workers at hand, and lets them go.

    Workers start at once: they get ready while the recipe is being put together here.

    Raises:
        KnbenchError: they cannot be had; says why.
    """
    if config.kind == "serial":
        yield lambda spec: _alone(config, spec)
    elif config.kind == "local":
        from .local import local_crew

        workers = config.workers or 2
        with local_crew(workers) as pool:
            yield lambda spec: pool.configure((spec, _shared_out(config, workers)))
    else:
        from .ray import ray_crew

        with ray_crew(config.address, config.workers, on_cards=config.device.startswith("cuda")) as (ray, pool):

            def start_executor(spec: RunSpec) -> Executor:
                from ..evaluator import WorkerDevice

                return pool.configure(ray.put((spec, WorkerDevice(config.device, config.threads))))

            yield start_executor


def _alone(config: ExecutorConfig, spec: RunSpec) -> Executor:
    from ...core.progress import Reporter
    from ..evaluator import WorkerDevice
    from ..runner import Serial

    return Serial(spec.build_evaluator(WorkerDevice(config.device, config.threads), Reporter()))


def _shared_out(config: ExecutorConfig, workers: int) -> WorkerDevice:
    import torch

    from ..evaluator import WorkerDevice

    return WorkerDevice(config.device, config.threads or max(1, torch.get_num_threads() // workers))
