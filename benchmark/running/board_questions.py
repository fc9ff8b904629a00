"""Measures which cases and probes a run of a board selects with a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.records import Observation
from ..core.schema import Case, Probe, Task
from ..core.settings import RunSettings
from ..core.split import lite_order, split_cases
from ..models.language_model import LanguageModel
from ..probing.base import Prober
from ..probing.baseline import Baselines, select_cases, with_added_probes
from ..probing.prober import make_prober
from ..results.board_places import questions_digest
from ..results.boards import Questions
from ..scoring.criteria import MEASURES
from .plan import BLOCK


def measure_questions(lm: LanguageModel, task: Task, settings: RunSettings) -> Questions:
    """Return the cases and probes that a run with a model selects.

    Without ``known_only`` they follow from the task, whatever the model is; ``ids`` is then empty.

    Args:
        lm: the model.
        task: the task.
        settings: settings of the run.

    Raises:
        KnbenchError: no case remains.
    """
    prober = make_prober(lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens)
    cases = [with_added_probes(case, fluency=False) for case in select_cases(prober, task, settings)]
    if not settings.known_only:
        return Questions(len(cases), questions_digest([(case.id, case.request, case.probes) for case in cases]))
    baselines = Baselines(prober, settings, BLOCK)
    kept: list[Case] = []
    margin = _margin_of_cases(prober, task, settings, [case.id for case in cases])
    for first in range(0, len(cases), BLOCK):
        block = dict(enumerate(cases[first : first + BLOCK], start=first))
        kept += baselines.of(task.name, block).cases.values()
        probes = [probe for case in block.values() for probe in case.probes if probe.expect == "unchanged"]
        margin = min(margin, _margin(probes, prober.observe(probes)))
    digest = questions_digest([(case.id, case.request, case.probes) for case in kept])
    ids = tuple(case.id for case in kept)
    return Questions(len(kept), digest, ids, None if math.isinf(margin) else margin)


def _margin_of_cases(prober: Prober, task: Task, settings: RunSettings, selected: Sequence[str]) -> float:
    """Return the smallest margin of the decisions whether the selected cases, and those before them, are known."""
    pool = split_cases(task.name, task.cases, settings.split)
    order = lite_order(task.name, pool) if settings.subset == "lite" else pool
    last = max(number for number, case in enumerate(order) if case.id in set(selected))
    requests = [case.request for case in order[: last + 1] if case.request.target_true]
    probes = [Probe("known", "completion", r.text, r.target_true, r.target_new, "unchanged") for r in requests]
    return _margin(probes, prober.observe(probes))


def _margin(probes: Sequence[Probe], observations: Sequence[Observation]) -> float:
    """Return the smallest difference, in nats, between a target and a rival that can be compared; inf without any."""
    success = MEASURES["success"]
    differences = [
        abs(observation.target.logprob - observation.rival.logprob)
        for probe, observation in zip(probes, observations, strict=True)
        if probe.rival and observation.rival_answer and success.of(probe, observation, observation) is not None
    ]
    return min(differences, default=math.inf)
