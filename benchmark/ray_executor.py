"""``--executor ray``: workers on the machines of a Ray cluster, or of one that is started here for the run.

Ray is an optional part: ``pip install 'knbench[ray]'``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from .crew import Crew, Worker, WorkerLost
from .errors import KnbenchError
from .messages import Done, Failed, Message, Question

if TYPE_CHECKING:
    from .workbench import Recipe


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
def cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """``with cluster("auto", None) as ray: ...`` is connected, to a cluster of its own where no address is given.

    Raises:
        KnbenchError: there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():  # by the caller, who will also end it
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
    else:
        options |= {"address": address}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KnbenchError(f"--address '{address}': no Ray cluster answers there: {first}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def ray_crew(ray: Any, recipe: Recipe, workers: int | None) -> Crew:
    """Return a crew on a cluster.

    Args:
        ray: the connected library.
        recipe: what each worker lays out; on CUDA each takes one card.
        workers: how many; None takes one per card, or without cards one per machine.

    Raises:
        KnbenchError: the cluster has not so many cards or processors.
    """
    on_cards = recipe.device.startswith("cuda")
    has = ray.cluster_resources()
    room = int(has.get("GPU" if on_cards else "CPU", 0))
    number = workers or (room if on_cards else sum(node["Alive"] for node in ray.nodes()))
    if not 1 <= number <= room:
        raise KnbenchError(
            f"--num-workers {number}: the Ray cluster has {room} {'cards' if on_cards else 'processors'}, "
            "and each worker takes one"
        )
    remote = ray.remote(_Answering).options(num_cpus=1, num_gpus=int(on_cards), scheduling_strategy="SPREAD")
    shared = ray.put(recipe)
    return Crew("ray", [RayWorker(ray, remote, shared, number) for number in range(number)])


class RayWorker(Worker):
    """An actor; where its machine is lost, another one starts wherever the cluster has room."""

    def __init__(self, ray: Any, remote: Any, recipe: Any, number: int) -> None:
        super().__init__(number)
        self._ray, self._remote, self._recipe = ray, remote, recipe
        self._actor: Any = None

    def start(self) -> None:
        """Ask the cluster for an actor."""
        self._actor = self._remote.remote(self._recipe)

    def ask(self, question: Question) -> Iterator[Message]:
        """Yield what the actor tells.

        Raises:
            WorkerLost: it is gone.
        """
        try:
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

    def __init__(self, recipe: Recipe) -> None:
        from .station import Station

        self._station = Station(recipe, recipe.device)  # Ray shows each actor no card but its own

    def answer(self, question: Question) -> Iterator[Message]:
        """Yield what is told as it is told, the answering being done in a thread of its own."""
        told: SimpleQueue[Message] = SimpleQueue()
        threading.Thread(target=self._station.answer, args=(question, told.put), daemon=True).start()
        while True:
            message = told.get()
            yield message
            if isinstance(message, Done | Failed):
                return
