"""Stored results by model and regime, with the values of methods that have every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from knbench.benchmark.core.documents import Result
from knbench.benchmark.core.schema import TaskKind
from knbench.benchmark.core.version import __version__
from knbench.benchmark.results.comparison import TaskComparison, Values, group_by_task
from knbench.benchmark.results.documents import release_series
from knbench.benchmark.results.edit_scores import ScoredMethod, complete_methods, rank_by_edit_score
from knbench.benchmark.results.runs import Run, find_runs
from knbench.benchmark.scoring.criteria import CRITERIA
from knbench.benchmark.scoring.edit_score import EDIT_SCORE, PRESERVATION, CaseValues, Definition, case_values
from knbench.benchmark.scoring.edit_score_estimates import MethodScores, scores_over_tasks


@dataclass(frozen=True, order=True)
class Setting:
    """What one table compares: a model, and how edits are applied.

    Attributes:
        model: name of the model.
        regime: ``single``, ``batch`` or ``sequential``.
        edits: number of edits of a batch or a sequence; 1 for single edits.
    """

    model: str
    regime: str = "single"
    edits: int = 1

    @property
    def name(self) -> str:
        """Name in tables: ``single``, ``batch-20``, ``sequential-100``."""
        return self.regime if self.regime == "single" else f"{self.regime}-{self.edits}"


def setting_of(result: Result) -> Setting:
    """Return the setting of a result."""
    protocol = result.protocol
    edits = {"batch": protocol.batch_edits, "sequential": protocol.cases}.get(protocol.regime) or 1
    return Setting(result.model.name, protocol.regime, edits)


@dataclass(frozen=True, eq=False)
class Results:
    """The results of one setting.

    Attributes:
        setting: the model and the regime.
        groups: the results by task. Methods that lack a task of a kind are left out of that kind.
    """

    setting: Setting
    groups: Sequence[TaskComparison]

    @cached_property
    def methods(self) -> list[str]:
        """All methods, sorted."""
        return sorted({name for group in self.groups for name in group.runs})

    @cached_property
    def ordered(self) -> list[str]:
        """All methods, those with every task by their edit score, and then the others by name."""
        best = list(self.scored(None))
        return [*best, *(m for m in self.methods if m not in best)]

    def runs(self, method: str) -> list[Run]:
        """Return the runs of a method, one per task."""
        return [group.runs[method] for group in self.groups if method in group.runs]

    def of(self, kind: TaskKind | None) -> list[TaskComparison]:
        """Return the tasks of a kind, or of both."""
        return [group for group in self.groups if kind in (None, group.kind)]

    @cache  # noqa: B019 - lives as long as the command
    def complete(self, kind: TaskKind | None) -> tuple[str, ...]:
        """Return the methods that have all tasks of a kind, sorted."""
        groups = self.of(kind)
        return tuple(m for m in self.methods if groups and all(m in group.runs for group in groups))

    @cache  # noqa: B019
    def values(self, kind: TaskKind | None, definition: str = "") -> list[Mapping[str, CaseValues]]:
        """Return the case values of complete methods by task.

        Args:
            kind: kind of the tasks, or None for both.
            definition: name of a definition in :data:`DEFINITIONS`; empty for the edit score.
        """
        chosen = DEFINITIONS[definition]
        methods = self.complete(kind)
        return complete_methods(
            [
                {m: case_values(list(group.records[m].values()), group.kind, chosen) for m in methods}
                for group in self.of(kind)
            ]
        )

    @cache  # noqa: B019
    def scored(self, kind: TaskKind | None, definition: str = "") -> dict[str, ScoredMethod]:
        """Return edit scores with their intervals and ranks by method, the best first."""
        return {row.method: row for row in rank_by_edit_score(self.values(kind, definition))}

    @cache  # noqa: B019
    def drawn(self, kind: TaskKind | None) -> dict[str, MethodScores]:
        """Return the observed and the resampled edit scores by method."""
        return scores_over_tasks(self.values(kind))

    def by_measure(self, kind: TaskKind, measure: str) -> list[Mapping[str, Values]]:
        """Return the values of complete methods by a measure: by task, then method, then criterion."""
        return [
            {m: {c: group.values(m, c, measure) for c in CRITERIA} for m in self.complete(kind)}
            for group in self.of(kind)
        ]


WITHOUT_SPECIFICITY = "without specificity"
BY_PREFERENCE = "by preference"
DEFINITIONS: Mapping[str, Definition] = {
    "": EDIT_SCORE,
    WITHOUT_SPECIFICITY: replace(EDIT_SCORE, preservation=tuple(c for c in PRESERVATION if c != "specificity")),
    BY_PREFERENCE: replace(EDIT_SCORE, shift=False),
}
"""The edit score, and variants that differ in specificity, by name."""


def load_results(folder: Path) -> dict[Setting, Results]:
    """Return the results of a folder by setting. Results of earlier release series are left out.

    Raises:
        KnbenchError: a result is broken, or two results of one table were measured under different conditions.
    """
    by_setting: dict[Setting, list[Run]] = {}
    series = release_series(__version__)
    for run in find_runs([folder]):
        if release_series(run.result.benchmark_version) == series:
            by_setting.setdefault(setting_of(run.result), []).append(run)
    return {setting: Results(setting, group_by_task(runs)) for setting, runs in sorted(by_setting.items())}


def separated(results: Results, kind: TaskKind | None) -> tuple[int, int, float]:
    """Return how many pairs of methods differ in edit score, the number of pairs, and the power.

    Controls are left out. A pair differs if the 95% interval of its difference excludes 0.

    Returns:
        The number of pairs that differ, the number of pairs, and the median half-width of the intervals: the
        smallest difference that half of the pairs could show.
    """
    drawn = results.drawn(kind)
    names = [m for m in drawn if results.runs(m)[0].result.editor.kind != "control"]
    different, halves = 0, []
    for n, first in enumerate(names):
        for second in names[:n]:
            low, high = np.percentile(drawn[first].drawn.value - drawn[second].drawn.value, [2.5, 97.5])
            different += bool(low > 0 or high < 0)
            halves.append((high - low) / 2)
    return different, len(halves), float(np.median(halves)) if halves else float("nan")
