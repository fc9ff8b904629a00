"""Splits the cases of a task into tuning and test cases, and selects the lite subset.

Hyper-parameters are chosen on tuning cases and methods are evaluated on test cases. About one case in five is a tuning
case. A hash of the task's name and the case's id decides it. Every machine and every version of a task agrees, and
adding, removing or moving a case does not affect the others. A task of fewer than :data:`MIN_SPLIT_CASES` cases has no
tuning cases, because its test set would become too small.

The *lite* subset contains the first :data:`LITE_CASES` cases of a task in an order given by a hash of the same names.
It is the same for everyone, and reduces the cost of a run without a choice of cases by its author.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from .schema import Case, derived_seed, digest

Split = Literal["test", "tune", "all"]
SPLITS: tuple[Split, ...] = ("test", "tune", "all")
MIN_SPLIT_CASES = 20
TUNING_INTERVAL = 5
"""One case in ``TUNING_INTERVAL`` is a tuning case."""

Subset = Literal["full", "lite"]
SUBSETS: tuple[Subset, ...] = ("full", "lite")
LITE_CASES = 24


def ordered_cases(task_name: str, version: int, cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases of a version of a task in its order, a fixed shuffle.

    The first cases are then a fair sample, not the beginning of the alphabet.
    """
    return tuple(sorted(cases, key=lambda case: digest([task_name, version, case.id])))


def split_cases(task_name: str, cases: Sequence[Case], which: Split) -> tuple[Case, ...]:
    """Return the cases of one side of the split, in the order of the task.

    Args:
        task_name: the name of the task.
        cases: all cases of the task. Their number decides whether the task is split.
        which: ``test``, ``tune``, or ``all`` for both sides.

    Raises:
        ValueError: ``which`` is not one of them.
    """
    if which not in SPLITS:
        raise ValueError(f"the split must be one of {', '.join(SPLITS)}, not {which!r}")
    if which == "all":
        return tuple(cases)
    is_split = len(cases) >= MIN_SPLIT_CASES
    return tuple(case for case in cases if (is_split and _is_tuning_case(task_name, case.id)) == (which == "tune"))


def lite_cases(task_name: str, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the lite subset of the given cases, in its own order.

    Args:
        task_name: the name of the task.
        cases: the cases of the task that a run evaluates.
    """
    return lite_order(task_name, cases)[:LITE_CASES]


def lite_order(task_name: str, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the given cases in the order whose beginning is the lite subset."""
    return tuple(sorted(cases, key=lambda case: derived_seed("lite", task_name, case.id)))


def _is_tuning_case(task_name: str, case_id: str) -> bool:
    return derived_seed("split", task_name, case_id) % TUNING_INTERVAL == 0
