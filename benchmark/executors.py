"""Who measures a run: this process, several on this machine, or workers on a Ray cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import KnbenchError

if TYPE_CHECKING:
    from .runner import Executor
    from .workbench import Recipe

Kind = Literal["serial", "local", "ray"]
KINDS: tuple[Kind, ...] = ("serial", "local", "ray")


@dataclass(frozen=True)
class Staff:
    """How a run is carried out; decides its time, and not its numbers.

    Attributes:
        kind: ``serial``: this process; ``local``: several on this machine; ``ray``: those of a Ray cluster.
        workers: how many, each with a model of its own; None takes two, and on Ray one per card or machine.
        address: of the Ray cluster; None starts one on this machine for the run.
        threads: of each worker; None shares out the processors. Sums come out otherwise with another number of them
            in the last bits.

    Raises:
        KnbenchError: what is asked for does not go together.
    """

    kind: Kind = "serial"
    workers: int | None = None
    address: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.kind == "serial" and self.workers:
            raise KnbenchError("--workers needs --executor local or --executor ray")
        if self.kind != "ray" and self.address:
            raise KnbenchError("--address needs --executor ray")


@contextmanager
def engaged(staff: Staff, recipe: Recipe) -> Iterator[Executor]:
    """``with engaged(staff, recipe) as executor: ...`` has the workers at hand, and lets them go.

    Raises:
        KnbenchError: they cannot be had; says why.
    """
    import torch

    recipe = dataclasses.replace(recipe, threads=staff.threads)
    if staff.kind == "serial":
        from .progress import Reporter
        from .runner import Serial

        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        yield Serial(recipe.lay_out(recipe.device, Reporter()))
    elif staff.kind == "local":
        from .local_executor import local_crew

        workers = staff.workers or 2
        shared_out = dataclasses.replace(recipe, threads=recipe.threads or max(1, torch.get_num_threads() // workers))
        with local_crew(shared_out.portable(), workers) as crew:
            yield crew
    else:
        from .ray_executor import cluster, ray_crew

        with cluster(staff.address, staff.workers) as ray, ray_crew(ray, recipe.portable(), staff.workers) as crew:
            yield crew
