"""Who measures a run: this process, several on this machine, or workers on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...core.errors import KnbenchError

if TYPE_CHECKING:
    from ..evaluator import Post, Recipe
    from ..runner import Executor

Kind = Literal["serial", "local", "ray"]
KINDS: tuple[Kind, ...] = ("serial", "local", "ray")


@dataclass(frozen=True)
class Staff:
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
def engaged(staff: Staff) -> Iterator[Callable[[Recipe], Executor]]:
    """``with engaged(staff) as brief: executor = brief(recipe)`` has the workers at hand, and lets them go.

    Workers start at once: they get ready while the recipe is being put together here.

    Raises:
        KnbenchError: they cannot be had; says why.
    """
    if staff.kind == "serial":
        yield lambda recipe: _alone(staff, recipe)
    elif staff.kind == "local":
        from .local import local_crew

        workers = staff.workers or 2
        with local_crew(workers) as crew:
            yield lambda recipe: crew.tell((recipe.portable(), _shared_out(staff, workers)))
    else:
        from .ray import ray_crew

        with ray_crew(staff.address, staff.workers, on_cards=staff.device.startswith("cuda")) as (ray, crew):

            def brief(recipe: Recipe) -> Executor:
                from ..evaluator import Post

                return crew.tell(ray.put((recipe.portable(), Post(staff.device, staff.threads))))

            yield brief


def _alone(staff: Staff, recipe: Recipe) -> Executor:
    from ...core.progress import Reporter
    from ..evaluator import Post
    from ..runner import Serial

    return Serial(recipe.lay_out(Post(staff.device, staff.threads), Reporter()))


def _shared_out(staff: Staff, workers: int) -> Post:
    import torch

    from ..evaluator import Post

    return Post(staff.device, staff.threads or max(1, torch.get_num_threads() // workers))
