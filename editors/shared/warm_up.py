"""Requests for statistics that a method needs before its first edit, from tuning cases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain, zip_longest

from ...benchmark.core import registry
from ...benchmark.core.schema import Case, EditRequest
from ...benchmark.core.split import ordered_cases, split_cases
from ...benchmark.models.language_model import LanguageModel

WARM_UP_TASKS = (
    "capital",
    "mother-tongue",
    "field-of-work",
    "religion",
    "instrument",
    "city-country",
    "element-symbol",
)
"""Tasks of facts, whose targets differ in length."""


@cache
def tuning_cases(name: str) -> tuple[Case, ...]:
    """Return the tuning cases of a task, in its order.

    Raises:
        KnbenchError: the task does not exist.
    """
    task = registry.task(name)
    return split_cases(name, ordered_cases(name, task.version, task.cases), "tune")


def warm_up_requests(lm: LanguageModel, tasks: Sequence[str], count: int) -> list[EditRequest]:
    """Return requests of the tuning cases of some tasks, in turn, at most ``count``.

    Runs exclude the tuning cases, see :mod:`knbench.benchmark.core.split`. Requests whose target the model cannot
    tokenise are left out.

    Args:
        lm: the model.
        tasks: names of tasks.
        count: maximum number of requests.

    Raises:
        KnbenchError: a task does not exist.
    """
    found = [[case.request for case in tuning_cases(name)] for name in tasks]
    requests: list[EditRequest] = []
    for request in chain.from_iterable(zip_longest(*found)):
        if request is None or len(requests) == count:
            continue
        try:
            lm.token_queries(request.text, request.target_new, ".")
        except ValueError:
            continue
        requests.append(request)
    return requests
