"""Which cases hyper-parameters may be tuned on, and which methods are judged by: never the same ones.

About one case in five of a task is a *tuning* case; the others are *test* cases. What a case is follows from the name
of its task and its id alone, so every machine and every version of a task agrees, and a case that is added, removed or
moved changes no other's side. A task of fewer than :data:`SMALLEST` cases is kept whole for testing: it has too few to
judge by as it is.

The *lite* subset is a task's first :data:`LITE` cases in an order drawn once for all from the same names: the same
cases for everybody, and no choice of whoever runs them. It is for those who cannot afford all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .schema import Case, derived_seed

Split = Literal["test", "tune", "all"]
SPLITS: tuple[Split, ...] = ("test", "tune", "all")
SMALLEST = 20
ONE_IN = 5

Subset = Literal["full", "lite"]
SUBSETS: tuple[Subset, ...] = ("full", "lite")
LITE = 20


def split_cases(task_name: str, cases: Sequence[Case], which: Split) -> tuple[Case, ...]:
    """Return a task's cases on one side of the split, in their order.

    Args:
        task_name: the task that the cases are of.
        cases: all of its cases; how many there are decides whether the task is split at all.
        which: ``test``, ``tune``, or ``all`` for both sides.

    Raises:
        ValueError: no such side.
    """
    if which not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {which!r}")
    if which == "all":
        return tuple(cases)
    divided = len(cases) >= SMALLEST
    return tuple(case for case in cases if (divided and _for_tuning(task_name, case.id)) == (which == "tune"))


def lite_cases(task_name: str, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the lite subset of those of a task's cases that are to be judged, in its own order."""
    return tuple(sorted(cases, key=lambda case: derived_seed("lite", task_name, case.id))[:LITE])


def _for_tuning(task_name: str, case_id: str) -> bool:
    return derived_seed("split", task_name, case_id) % ONE_IN == 0
