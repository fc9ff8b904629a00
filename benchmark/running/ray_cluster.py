"""Connection to a Ray cluster, or to one that is started on this machine for a run.

Ray is an optional dependency: ``pip install 'knbench[ray]'``.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..core import registry
from ..core.errors import KnbenchError, first_line

LOOPBACK = "127.0.0.1"
"""Address of a cluster that is started here."""
CLUSTER_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable with which Ray decides whether a new cluster accepts other machines; by default on Linux."""


@contextmanager
def ray_cluster(address: str | None, cpus: int | None) -> Iterator[Any]:
    """``with ray_cluster("auto", None) as ray: ...`` has the module ``ray``, connected to a cluster.

    An existing connection is used and stays open.

    Args:
        address: of the cluster; None starts one, which only this machine can reach, and stops it at the end.
        cpus: number of CPUs of a new cluster; None takes those of the machine.

    Raises:
        KnbenchError: Ray is not installed, or no cluster answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise KnbenchError("--executor ray needs Ray; install it with: pip install 'knbench[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        _connect(ray, address, cpus)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None, cpus: int | None) -> None:
    """Connect to a cluster, or start one on the loopback address: Ray executes whatever it receives."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        # By default Ray's workers have the lowest priority, and make no progress on a busy machine.
        system = {"worker_niceness": 0}
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False, "_system_config": system}
    else:
        options |= {"address": address}
    try:
        host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        with nullcontext() if address else _loopback_only():
            ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:  # a failed or slow connection is an OSError
        where = f"--address '{address}': no Ray cluster answers there" if address else "Ray cannot start a cluster here"
        raise KnbenchError(f"{where}: {first_line(error)}") from error
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
