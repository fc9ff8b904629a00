"""``--executor ray``: actors on the machines of a Ray cluster.

Ray starts an actor again whose process or machine is lost, and repeats the calls that the actor has not executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from ...core.errors import KnbenchError, first_line
from ..ray_cluster import ray_cluster
from .pool import WorkerPool
from .worker import Worker


@contextmanager
def ray_pool(address: str | None, workers: int | None, *, use_gpus: bool | None) -> Iterator[WorkerPool]:
    """``with ray_pool("auto", None, use_gpus=True) as pool: ...`` has a pool on a cluster.

    The connection is made before everything else. Later it would take longer, because this process imports its
    libraries at the same time, and the workers could not start to import theirs.

    Args:
        address: of the cluster; None starts one on this machine.
        workers: number of workers; None takes one per GPU, or without GPUs one per machine.
        use_gpus: whether each worker takes a GPU; None if the cluster has one.

    Raises:
        KnbenchError: no cluster answers at the address, or it has too few GPUs or CPUs.
    """
    with ray_cluster(address, workers) as ray:
        resources = ray.cluster_resources()
        kind = "GPU" if use_gpus or (use_gpus is None and resources.get("GPU", 0) >= 1) else "CPU"
        available = int(resources.get(kind, 0))
        number = workers or (available if kind == "GPU" else sum(node["Alive"] for node in ray.nodes()))
        if not 1 <= number <= available:
            raise KnbenchError(
                f"--num-workers {number}: the Ray cluster has {available} {kind}s, and each worker takes one"
            )
        actor_class = ray.remote(Worker).options(
            num_cpus=1, num_gpus=int(kind == "GPU"), scheduling_strategy="SPREAD", max_restarts=-1, max_task_retries=-1
        )

        def pack(setup: object) -> object:
            return ray.put(ray.cloudpickle.dumps(setup))

        with WorkerPool("ray", [RayWorker(ray, actor_class) for _ in range(number)], pack) as pool:
            yield pool


class RayWorker:
    """A Ray actor."""

    def __init__(self, ray: Any, actor_class: Any) -> None:
        self._ray, self._class = ray, actor_class

    def start(self) -> None:
        """Request an actor from the cluster."""
        self._actor = self._class.remote()
        self._actor.warm_up.remote()

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the actor. If it ends while it gives messages, the call fails: it had a command."""
        options = {"max_task_retries": 0} if method == "receive" else {}
        future: Future[Any] = getattr(self._actor, method).options(**options).remote(*args).future()
        return future

    def loss(self, error: Exception) -> str | None:
        """Return how the actor ended, if that is the reason of an error. Ray starts it again."""
        exceptions = self._ray.exceptions
        is_own = isinstance(error, exceptions.RayTaskError) or getattr(error, "actor_init_failed", False)
        return None if is_own or not isinstance(error, exceptions.RayError) else f"was lost: {first_line(error)}"

    def stop(self) -> None:
        """Kill the actor."""
        self._ray.kill(self._actor)
