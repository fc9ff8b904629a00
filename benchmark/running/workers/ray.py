"""``--executor ray``: workers on the machines of a Ray cluster, or on a cluster that is started here for the run.

Ray is an optional dependency: ``pip install 'knbench[ray]'``.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ...core import registry
from ...core.errors import KnbenchError, first_line
from .messages import Command, Done, Failed, Message, setup_failed
from .pool import Worker, WorkerLost, WorkerPool

if TYPE_CHECKING:
    from ..evaluator import RunSpec, WorkerDevice
    from .loop import WorkerLoop

CONNECT_TIMEOUT = 10
"""Seconds to wait for an address to accept a connection."""


LOOPBACK = "127.0.0.1"
"""Address of a cluster that is started here."""
CLUSTER_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable with which Ray decides whether a new cluster accepts other machines; by default on Linux."""


def import_ray() -> Any:
    """Return the ray module.

    Raises:
        KnbenchError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise KnbenchError("--executor ray needs Ray; install it with: pip install 'knbench[ray]'") from None
    return ray


@contextmanager
def ray_pool(address: str | None, workers: int | None, *, use_gpus: bool | None) -> Iterator[tuple[Any, WorkerPool]]:
    """``with ray_pool("auto", None, use_gpus=True) as (ray, pool): ...`` has a pool on a cluster.

    The connection is made before everything else. Later it would take longer, because this process imports its
    libraries at the same time, and the workers could not start to import theirs. The pool's setup is a reference to a
    pickled tuple of run spec and :class:`WorkerDevice`.

    Args:
        address: of the cluster; None starts one, which only this machine can reach, and stops it at the end.
        workers: number of workers; None takes one per GPU, or without GPUs one per machine.
        use_gpus: whether each worker takes a GPU; None if the cluster has one.

    Raises:
        KnbenchError: Ray is not installed, no cluster answers at the address, or it has too few GPUs or CPUs.
    """
    ray = import_ray()
    own = not ray.is_initialized()  # a connection of the caller's is closed by the caller
    try:
        if own:
            _connect(ray, address, workers)
            if address is None and ray.util.get_node_ip_address() != LOOPBACK:
                registry.warn("the Ray cluster of this run listens on all network interfaces; update ray")
        with _pool_on(ray, workers, use_gpus) as pool:
            yield ray, pool
    finally:
        if own:
            ray.shutdown()


def _pool_on(ray: Any, workers: int | None, use_gpus: bool | None) -> WorkerPool:
    if use_gpus is None:
        use_gpus = ray.cluster_resources().get("GPU", 0) >= 1
    available = int(ray.cluster_resources().get("GPU" if use_gpus else "CPU", 0))
    number = workers or (available if use_gpus else sum(node["Alive"] for node in ray.nodes()))
    if not 1 <= number <= available:
        raise KnbenchError(
            f"--num-workers {number}: the Ray cluster has {available} {'GPUs' if use_gpus else 'CPUs'}, and each "
            "worker takes one"
        )
    remote = ray.remote(_Actor).options(num_cpus=1, num_gpus=int(use_gpus), scheduling_strategy="SPREAD")
    return WorkerPool("ray", [RayWorker(ray, remote, number) for number in range(number)])


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        # By default Ray's workers have the lowest priority, and make no progress on a busy machine.
        system = {"worker_niceness": 0}
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False, "_system_config": system}
    else:
        options |= {"address": address}
    try:
        _check_reachable(address or "")
        with nullcontext() if address else _loopback_only():
            ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:  # a failed or slow connection is an OSError
        raise KnbenchError(f"--address '{address}': no Ray cluster answers there: {first_line(error)}") from error


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a cluster that is started in the block listen on the loopback address alone, as on macOS and Windows.

    Ray executes whatever it receives. On Linux it would listen on all interfaces, and ``ray.init`` replaces a loopback
    address by another one. Its processes read an environment variable; a module that is imported here has read it.
    """
    constants = importlib.import_module("ray._private.ray_constants")
    variable, constant = os.environ.get(CLUSTER_VARIABLE), getattr(constants, "ENABLE_RAY_CLUSTER", None)
    os.environ[CLUSTER_VARIABLE] = "0"
    vars(constants)["ENABLE_RAY_CLUSTER"] = False
    try:
        yield
    finally:
        vars(constants)["ENABLE_RAY_CLUSTER"] = constant
        if variable is None:
            del os.environ[CLUSTER_VARIABLE]
        else:
            os.environ[CLUSTER_VARIABLE] = variable


def _check_reachable(address: str) -> None:
    """Check that ``host:port`` or ``ray://host:port`` accepts a connection: Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()


class RayWorker(Worker):
    """A Ray actor. If its machine is lost, a new one starts wherever the cluster has capacity."""

    def __init__(self, ray: Any, remote: Any, number: int) -> None:
        super().__init__(number)
        self._ray, self._remote = ray, remote
        self._actor: Any = None
        self._is_set_up = False

    def start(self) -> None:
        """Request an actor from the cluster."""
        self._actor, self._is_set_up = self._remote.remote(), False

    def execute(self, command: Command) -> Iterator[Message]:
        """Send a command and yield the messages.

        Raises:
            WorkerLost: the actor is gone.
        """
        try:
            if not self._is_set_up:
                problem = self._ray.get(self._actor.set_up.remote(self.setup))
                if problem is not None:
                    yield problem
                    return
                self._is_set_up = True
            for message in self._actor.execute.options(num_returns="streaming").remote(command):
                yield self._ray.get(message)
        except self._ray.exceptions.RayTaskError as error:  # raised by the worker's code, and not by its loss
            yield setup_failed(_cause(error))
        except self._ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                yield setup_failed(_cause(error))
                return
            raise WorkerLost(f"worker {self.number}: {first_line(error)}") from None

    def stop(self) -> None:
        """Kill the actor."""
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None


def _cause(error: Exception) -> Exception:
    """Return the exception that a remote function raised, or Ray's own error if it is not known."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


class _Actor:
    """Class of the actor: a worker loop whose messages are a stream."""

    def __init__(self) -> None:
        from . import loop  # imports torch, which takes seconds, while the run is being set up

        self._make = loop.WorkerLoop
        self._loop: WorkerLoop | None = None

    def set_up(self, setup: bytes) -> Failed | None:
        """Receive run spec and device, and return what is wrong with them, or None.

        They are unpickled here and not by Ray, which takes the ``SystemExit`` of an imported module for the end of the
        actor. Ray shows each actor only its own GPU.
        """
        try:
            parts: tuple[RunSpec, WorkerDevice] = pickle.loads(setup)
        except (Exception, SystemExit) as error:
            return setup_failed(error)
        self._loop = self._make(*parts)
        return None

    def execute(self, command: Command) -> Iterator[Message]:
        """Execute a command in a thread, and yield its messages as they are emitted."""
        if self._loop is None:
            raise RuntimeError("the worker received a command before its setup")
        messages: SimpleQueue[Message] = SimpleQueue()
        threading.Thread(target=self._loop.execute, args=(command, messages.put), daemon=True).start()
        while True:
            message = messages.get()
            yield message
            if isinstance(message, Done | Failed):
                return
