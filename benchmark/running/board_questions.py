"""Measures which cases and probes a run of a board selects with a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..core.records import Observation
from ..core.schema import Case, Probe, Task
from ..core.settings import RunSettings
from ..core.split import lite_order, split_cases
from ..models.language_model import LanguageModel
from ..probing.base import Prober
from ..probing.baseline import measure_baseline, select_cases, with_added_probes
from ..probing.prober import make_prober
from ..results.board_places import questions_digest
from ..results.boards import Questions
from ..scoring.criteria import MEASURES
from .plan import BLOCK


class QuestionSelector:
    """Selects the cases and probes of a board's tables with one model. Each case is measured once.

    Args:
        lm: the model.
        settings: settings that the tables have in common: split, knowledge and batch size.
    """

    def __init__(self, lm: LanguageModel, settings: RunSettings) -> None:
        self._selecting: Prober = make_prober(lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens)
        # Continuations take half of the time. Only conditions of probes depend on them.
        self._prober: Prober = make_prober(lm, batch_size=settings.batch_size, new_tokens=0)
        self._settings = settings
        self._kept: dict[tuple[str, str], tuple[Case, float]] = {}
        self._known: dict[tuple[str, str], float] = {}

    def select(self, task: Task, settings: RunSettings) -> Questions:
        """Return the cases and probes that a run selects.

        Without ``known_only`` they follow from the task, whatever the model is; ``ids`` is then empty.

        Args:
            task: the task.
            settings: settings of the run.

        Raises:
            KnbenchError: no case remains.
        """
        cases = list(select_cases(self._selecting, task, settings))
        if not settings.known_only:
            added = [with_added_probes(case, fluency=False) for case in cases]
            return Questions(len(added), questions_digest([(case.id, case.requests, case.probes) for case in added]))
        margin = self._margin_of_cases(task, settings, {case.id for case in cases})
        fresh = [case for case in cases if (task.name, case.id) not in self._kept]
        for first in range(0, len(fresh), BLOCK):
            self._measure(task, fresh[first : first + BLOCK])
        kept = []
        for case in cases:
            with_known, smallest = self._kept[task.name, case.id]
            kept.append(with_added_probes(with_known, fluency=False))
            margin = min(margin, smallest)
        digest = questions_digest([(case.id, case.requests, case.probes) for case in kept])
        return Questions(len(kept), digest, tuple(case.id for case in kept), None if math.isinf(margin) else margin)

    def _measure(self, task: Task, cases: Sequence[Case]) -> None:
        """Measure at most a block of cases on the unedited model."""
        prober = self._selecting if any(case.conditions for case in cases) else self._prober
        baseline = measure_baseline(prober, dict(enumerate(cases)), self._settings)
        for case, kept in zip(cases, baseline.cases.values(), strict=True):
            left_out = [probe for probe in case.probes if probe not in kept.probes]
            margins = (
                _margin(kept.probes, baseline.observations.get(case.id, ())),
                _margin(left_out, self._prober.observe(left_out) if left_out else ()),
            )
            self._kept[task.name, case.id] = replace(case, probes=kept.probes), min(margins)

    def _margin_of_cases(self, task: Task, settings: RunSettings, selected: set[str]) -> float:
        """Return the smallest margin of the decisions whether the selected cases, and those before them, are known."""
        pool = split_cases(task.name, task.cases, settings.split)
        order = lite_order(task.name, pool) if settings.subset == "lite" else pool
        last = max(number for number, case in enumerate(order) if case.id in selected)
        considered = [case for case in order[: last + 1] if case.request.target_true]
        fresh = [case for case in considered if (task.name, case.id) not in self._known]
        probes = [
            Probe("known", "completion", c.request.text, c.request.target_true, c.request.target_new, "unchanged")
            for c in fresh
        ]
        observations = self._prober.observe(probes) if probes else ()
        for case, probe, observation in zip(fresh, probes, observations, strict=True):
            self._known[task.name, case.id] = _margin([probe], [observation])
        return min(self._known[task.name, case.id] for case in considered)


def _margin(probes: Sequence[Probe], observations: Sequence[Observation]) -> float:
    """Return the smallest difference, in nats, between a target and a rival that decided on an ``unchanged`` probe.

    Answers that cannot be compared are not considered. Without any, the margin is infinite.
    """
    success = MEASURES["success"]
    differences = [
        abs(observation.target.logprob - observation.rival.logprob)
        for probe, observation in zip(probes, observations, strict=True)
        if probe.expect == "unchanged"
        and observation.target_answer
        and observation.rival_answer
        and success.of(probe, observation, observation) is not None
    ]
    return min(differences, default=math.inf)
