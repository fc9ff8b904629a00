"""``--executor ray``: actors on the machines of a Ray cluster, or on a cluster that is started here for the run.

Ray is an optional dependency: ``pip install 'knbench[ray]'``. It restarts an actor whose process or machine is
lost, and repeats the calls that the actor has not executed.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any

from ...core import registry
from ...core.errors import KnbenchError, first_line
from .pool import WorkerPool
from .worker import Worker

LOOPBACK = "127.0.0.1"
"""Address of a cluster that is started here."""
CLUSTER_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable with which Ray decides whether a new cluster accepts other machines; by default on Linux."""


@contextmanager
def ray_pool(address: str | None, workers: int | None, *, use_gpus: bool | None) -> Iterator[WorkerPool]:
    """``with ray_pool("auto", None, use_gpus=True) as pool: ...`` has a pool on a cluster.

    The connection is made before everything else. Later it would take longer, because this process imports its
    libraries at the same time, and the workers could not start to import theirs.

    Args:
        address: of the cluster; None starts one, which only this machine can reach, and stops it at the end.
        workers: number of workers; None takes one per GPU, or without GPUs one per machine.
        use_gpus: whether each worker takes a GPU; None if the cluster has one.

    Raises:
        KnbenchError: Ray is not installed, no cluster answers at the address, or it has too few GPUs or CPUs.
    """
    try:
        import ray
    except ImportError:
        raise KnbenchError("--executor ray needs Ray; install it with: pip install 'knbench[ray]'") from None
    own = not ray.is_initialized()  # a connection of the caller's is closed by the caller
    try:
        if own:
            _connect(ray, address, workers)
        resources = ray.cluster_resources()
        kind = "GPU" if use_gpus or (use_gpus is None and resources.get("GPU", 0) >= 1) else "CPU"
        available = int(resources.get(kind, 0))
        number = workers or (available if kind == "GPU" else sum(node["Alive"] for node in ray.nodes()))
        if not 1 <= number <= available:
            raise KnbenchError(
                f"--num-workers {number}: the Ray cluster has {available} {kind}s, and each worker takes one"
            )
        actor = ray.remote(Worker).options(
            num_cpus=1, num_gpus=int(kind == "GPU"), scheduling_strategy="SPREAD", max_restarts=-1, max_task_retries=-1
        )

        def pack(setup: object) -> object:
            return ray.put(ray.cloudpickle.dumps(setup))

        with WorkerPool("ray", [RayWorker(ray, actor) for _ in range(number)], pack) as pool:
            yield pool
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    """Connect to a cluster, or start one on the loopback address: Ray executes whatever it receives."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        # By default Ray's workers have the lowest priority, and make no progress on a busy machine.
        system = {"worker_niceness": 0}
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False, "_system_config": system}
    else:
        options |= {"address": address}
    try:
        host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        with nullcontext() if address else _loopback_only():
            ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:  # a failed or slow connection is an OSError
        raise KnbenchError(f"--address '{address}': no Ray cluster answers there: {first_line(error)}") from error
    if address is None and ray.util.get_node_ip_address() != LOOPBACK:
        registry.warn("the Ray cluster of this run listens on all network interfaces; update ray")


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a cluster that is started in the block listen on the loopback address alone, as on macOS and Windows.

    On Linux it would listen on all interfaces, and ``ray.init`` replaces a loopback address by another one. Ray's
    processes read an environment variable; a module that is imported here has read it.
    """
    constants = vars(importlib.import_module("ray._private.ray_constants"))
    variable, constant = os.environ.pop(CLUSTER_VARIABLE, None), constants.get("ENABLE_RAY_CLUSTER")
    os.environ[CLUSTER_VARIABLE], constants["ENABLE_RAY_CLUSTER"] = "0", False
    try:
        yield
    finally:
        del os.environ[CLUSTER_VARIABLE]
        if variable is not None:
            os.environ[CLUSTER_VARIABLE] = variable
        constants["ENABLE_RAY_CLUSTER"] = constant


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
