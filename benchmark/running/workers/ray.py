"""``--executor ray``: workers on the machines of a Ray cluster, or of one that is started here for the run.

Ray is an optional part: ``pip install 'knbench[ray]'``.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ...core.errors import KnbenchError
from .messages import Command, Done, Failed, Message
from .pool import Worker, WorkerLost, WorkerPool

if TYPE_CHECKING:
    from ..evaluator import RunSpec, WorkerDevice
    from .loop import WorkerLoop


def import_ray() -> Any:
    """Return the library.

    Raises:
        KnbenchError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise KnbenchError("--executor ray needs Ray; install it with: pip install 'knbench[ray]'") from None
    return ray


@contextmanager
def ray_crew(address: str | None, workers: int | None, *, on_cards: bool) -> Iterator[tuple[Any, WorkerPool]]:
    """``with ray_crew("auto", None, on_cards=True) as (ray, crew): ...`` has a crew on a cluster.

    Connecting comes before everything else: beside the imports of this process it would take as long, and the workers
    could not begin with theirs.

    Args:
        address: the cluster's; None starts one for as long as this lasts.
        workers: how many; None takes one per card, or without cards one per machine.
        on_cards: whether each takes a card.

    Raises:
        KnbenchError: Ray is not installed, there is no cluster at the address, or it has not so many cards or
            processors.
    """
    ray = import_ray()
    own = not ray.is_initialized()  # otherwise it is the caller's, who will also end it
    try:
        if own:
            _connect(ray, address, workers)
        with _crew_on(ray, workers, on_cards) as pool:
            yield ray, pool
    finally:
        if own:
            ray.shutdown()


def _crew_on(ray: Any, workers: int | None, on_cards: bool) -> WorkerPool:
    has = ray.cluster_resources()
    room = int(has.get("GPU" if on_cards else "CPU", 0))
    number = workers or (room if on_cards else sum(node["Alive"] for node in ray.nodes()))
    if not 1 <= number <= room:
        raise KnbenchError(
            f"--num-workers {number}: the Ray cluster has {room} {'cards' if on_cards else 'processors'}, "
            "and each worker takes one"
        )
    remote = ray.remote(_Answering).options(num_cpus=1, num_gpus=int(on_cards), scheduling_strategy="SPREAD")
    return WorkerPool("ray", [RayWorker(ray, remote, number) for number in range(number)])


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        # By default Ray's workers give way to every other program of the machine, and stand still where one is busy.
        own = {"worker_niceness": 0}
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False, "_system_config": own}
    else:
        options |= {"address": address}
    try:
        _knock(address or "")
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:  # a connection that fails, or takes too long, is an OSError
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KnbenchError(f"--address '{address}': no Ray cluster answers there: {first}") from error


def _knock(address: str) -> None:
    """See whether anything listens at ``host:port`` or ``ray://host:port``: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


class RayWorker(Worker):
    """An actor; where its machine is lost, another one starts wherever the cluster has room."""

    def __init__(self, ray: Any, remote: Any, number: int) -> None:
        super().__init__(number)
        self._ray, self._remote = ray, remote
        self._actor: Any = None
        self._knows = False

    def start(self) -> None:
        """Ask the cluster for an actor."""
        self._actor, self._knows = self._remote.remote(), False

    def ask(self, question: Command) -> Iterator[Message]:
        """Yield what the actor tells.

        Raises:
            WorkerLost: it is gone.
        """
        try:
            if not self._knows:
                self._actor.be_told.remote(self.told)
                self._knows = True
            for told in self._actor.answer.options(num_returns="streaming").remote(question):
                yield self._ray.get(told)
        except self._ray.exceptions.RayError as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WorkerLost(f"worker {self.number}: {first}") from None

    def stop(self) -> None:
        """Kill the actor."""
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None


class _Answering:
    """The actor's class: a station whose answers are a stream."""

    def __init__(self) -> None:
        from . import loop as station  # which takes seconds, and goes on while this process is not told anything yet

        self._make = station.WorkerLoop
        self._station: WorkerLoop | None = None

    def be_told(self, told: tuple[RunSpec, WorkerDevice]) -> None:
        """Take the recipe and the post; Ray shows each actor no card but its own."""
        self._station = self._make(*told)

    def answer(self, question: Command) -> Iterator[Message]:
        """Yield what is told as it is told, the answering being done in a thread of its own."""
        if self._station is None:
            raise RuntimeError("asked before it was told what the run is about")
        told: SimpleQueue[Message] = SimpleQueue()
        threading.Thread(target=self._station.answer, args=(question, told.put), daemon=True).start()
        while True:
            message = told.get()
            yield message
            if isinstance(message, Done | Failed):
                return
