"""The order of methods: on facts, phenomena, both together, and each task, with the reason where a row has no rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ..benchmark.core.documents import EditorCard
from ..benchmark.core.schema import TaskKind
from ..benchmark.results.comparison import KINDS
from ..benchmark.results.controls import LIMITS, control_violations
from ..benchmark.results.edit_scores import ScoredMethod, rank_by_edit_score, ranked_by_scores
from ..benchmark.results.method_names import differing_settings
from ..benchmark.results.trust import Trust, lowest
from ..benchmark.scoring.edit_score_estimates import scores_over_tasks
from .entries import Entry, Section, TaskKey
from .paths import task_slug

TABLES: Mapping[TaskKind, str] = {"fact": KINDS["fact"], "linguistic": KINDS["linguistic"]}
"""Name of the table of all tasks of a kind."""
TOGETHER = "together"
"""Name of the table of facts and phenomena together."""


@dataclass(frozen=True, eq=False)
class Standing:
    """One method in a table.

    Attributes:
        entries: its results on the tasks of the table, in their order.
        kind: what the method changes, or ``control``; empty where it is unknown.
        trust: the lowest level of trust of its results.
        rank: interval of ranks as text; empty if the method is not ranked.
        unranked: reason why the method is not ranked; empty otherwise.
        best_rank: lower end of the interval of ranks; 0 if the method is not ranked.
        tie_group: number of the tie group, 1 for the best; 0 if the method is not ranked.
        scored: the edit score and its parts; None where it is undefined.
        complete: whether the method has the same settings on all tasks and the questions of the table.
    """

    method: str
    entries: Sequence[Entry]
    kind: str
    trust: Trust
    rank: str
    unranked: str
    best_rank: int
    tie_group: int
    scored: ScoredMethod | None
    complete: bool

    @property
    def seconds(self) -> float | None:
        """Median over tasks of the seconds per edit; None if no time was measured."""
        return self.cost("edit_seconds")

    def cost(self, name: str) -> float | None:
        """Return the median over tasks of a field of the cost; None if it was not measured."""
        found = [value for entry in self.entries if (value := getattr(entry.result.cost, name)) is not None]
        return median(found) if found else None

    def size(self, name: str) -> float | None:
        """Return the median over tasks of a field of the edits' size; None in results that do not state it."""
        found = [getattr(entry.size, name) for entry in self.entries if entry.size is not None]
        return median(found) if found else None

    @property
    def training_seconds(self) -> float | None:
        """Seconds that the training of the method took; None without training."""
        found = [s for entry in self.entries if (s := entry.result.editor.training_seconds) is not None]
        return max(found, default=None)

    @property
    def needs(self) -> tuple[str, ...] | None:
        """What the method needs: ``subject``, ``training`` or ``replay``; None in results that do not state it."""
        return needs_of(self.entries[0].result.editor)

    @property
    def failed(self) -> int:
        """Number of failed edits."""
        return sum(entry.result.records.failed for entry in self.entries)


def needs_of(editor: EditorCard) -> tuple[str, ...] | None:
    """Return what a method needs: ``subject``, ``training`` or ``replay``; None in a result of version 0.1."""
    if editor.kind is None:
        return None
    needs = {"subject": editor.needs_subject, "training": editor.trains, "replay": editor.replays}
    return tuple(name for name, needed in needs.items() if needed)


@dataclass(frozen=True, eq=False)
class Standings:
    """The methods of a section on some tasks, ordered by the edit score.

    Attributes:
        name: name in paths: ``facts``, ``phenomena``, ``together`` or the name of a task.
        kind: kind of the tasks; None for both kinds together.
        violations: sentences on controls whose scores show that the table cannot be trusted.
        draws: by method, the edit score on resampled cases, which all methods share.
    """

    name: str
    title: str
    kind: TaskKind | None
    tasks: Sequence[TaskKey]
    rows: Sequence[Standing]
    violations: Sequence[str]
    draws: Mapping[str, np.ndarray]


def overview_standings(section: Section) -> list[Standings]:
    """Return the standings over tasks: facts, phenomena, and both together if the section has both."""
    kinds: list[tuple[str, str, TaskKind | None]] = [
        (name, name.capitalize(), kind) for kind, name in TABLES.items() if tasks_of(section, kind)
    ]
    if len(kinds) > 1:
        kinds.append((TOGETHER, "Facts and phenomena", None))
    found = []
    for name, title, kind in kinds:
        tasks = tasks_of(section, kind)
        if len(tasks) == 1 and tasks[0] in section.entries:
            title = f"{title}: {section.task_card(tasks[0]).title}"
        found.append(standings(section, name, title, kind, tasks))
    return [one for one in found if one.rows]


def task_standings(section: Section, task: TaskKey) -> Standings:
    """Return the standings on one task."""
    card = section.task_card(task)
    return standings(section, task_slug(task), card.title, card.kind, [task])


def tasks_of(section: Section, kind: TaskKind | None) -> list[TaskKey]:
    """Return the tasks of an overview: those of the board, with or without results.

    Without a board, they are the tasks with a result that can be ranked, or all if there is none: a self-reported
    result on one more task must not make the results of all others incomplete.
    """
    if section.board is not None:
        return [task for task in section.required if kind in (None, section.board.tasks[task[0]].kind)]
    tasks = section.tasks(kind)
    ranked = [task for task in tasks if any(entry.trust.ranked for entry in section.entries[task].values())]
    return ranked or tasks


def standings(section: Section, name: str, title: str, kind: TaskKind | None, tasks: Sequence[TaskKey]) -> Standings:
    """Return the standings of a section on some tasks."""
    members_of = {task: section.entries.get(task, {}) for task in tasks}
    entries = {m: [members_of[t][m] for t in tasks if m in members_of[t]] for m in section.methods}
    entries = {method: members for method, members in entries.items() if members}
    # A method that is tuned for each task is not one method: its mean over tasks is not ranked.
    mixed = {m: differing_settings(entry.result for entry in members) for m, members in entries.items()}
    complete = [
        m
        for m, members in entries.items()
        if len(members) == len(tasks) and not mixed[m] and not any(entry.deviation for entry in members)
    ]
    # Ranks depend on all ranked methods: a result that nobody verified must not change those of others.
    trusted = [m for m in complete if _can_be_ranked(section, entries[m])]
    unverified = [m for m in complete if m not in trusted]
    ranked, draws = _edit_scores(section, trusted, tasks, ranked=not section.limited)
    others, more_draws = _edit_scores(section, unverified, tasks, ranked=False)
    scored = {**ranked, **others}
    for method, members in entries.items():
        if method not in scored:
            scored |= {row.method: row for row in rank_by_edit_score([{method: e.case_values} for e in members])}
    rows = [
        _standing(
            method,
            members,
            scored.get(method),
            _unranked(section, members, tasks, mixed[method], has_score=method in ranked),
            method in complete,
        )
        for method, members in entries.items()
    ]
    rows.sort(key=_order)
    kinds = {m: members[0].result.editor.kind for m, members in entries.items()}
    violations = control_violations({m: row.value for m, row in ranked.items()}, kinds)
    return Standings(name, title, kind, tasks, _with_tie_groups(rows), violations, {**draws, **more_draws})


def _order(row: Standing) -> tuple[bool, int, float, str]:
    """Return the sort key: ranked rows first; of the others, those with most tasks."""
    value = row.scored.value if row.scored else -1.0
    return bool(row.unranked), -len(row.entries) if row.unranked else 0, -value, row.method


def _can_be_ranked(section: Section, entries: Sequence[Entry]) -> bool:
    """Return whether the trust in the results of a row allows a rank: on no board, only somebody's own runs do."""
    trust = lowest([entry.trust for entry in entries])
    return trust.ranked if section.board else trust.level == "own run"


def _edit_scores(
    section: Section, methods: Sequence[str], tasks: Sequence[TaskKey], *, ranked: bool
) -> tuple[dict[str, ScoredMethod], dict[str, np.ndarray]]:
    """Return the edit scores of methods with results on all tasks, and the scores on resampled cases, by method."""
    if not methods:
        return {}, {}
    scores = scores_over_tasks([{m: section.entries[t][m].case_values for m in methods} for t in tasks])
    rows = {row.method: row for row in ranked_by_scores(scores, ranked=ranked)}
    return rows, {method: found.drawn.value for method, found in scores.items()}


def _unranked(
    section: Section,
    entries: Sequence[Entry],
    tasks: Sequence[TaskKey],
    mixed: Mapping[str, Sequence[Any]],
    *,
    has_score: bool,
) -> str:
    """Return the reason why a method is not ranked; empty if it is ranked."""
    if mixed:
        return f"settings differ between tasks: {', '.join(mixed)}"
    if len(entries) < len(tasks):
        return f"{len(entries)} of {len(tasks)} tasks"
    deviating = next((entry for entry in entries if entry.deviation), None)
    if deviating is not None:
        return f"{deviating.task[0]}: {deviating.deviation}"
    if section.limited:
        return "limited"
    if not _can_be_ranked(section, entries):
        return "no board" if section.board is None else "self-reported"
    return "" if has_score else "no edit score"


def _standing(
    method: str, entries: Sequence[Entry], scored: ScoredMethod | None, unranked: str, complete: bool
) -> Standing:
    rank, best = "", 0
    if scored is not None and not unranked:
        best = scored.best
        rank = str(best) if best == scored.worst else f"{best}\N{EN DASH}{scored.worst}"
    return Standing(
        method=method,
        entries=entries,
        kind=entries[0].result.editor.kind or ("control" if method in LIMITS else ""),
        trust=lowest([entry.trust for entry in entries]),
        rank=rank,
        unranked=unranked,
        best_rank=best,
        tie_group=0,
        scored=scored,
        complete=complete,
    )


def _with_tie_groups(rows: Sequence[Standing]) -> list[Standing]:
    """Number the tie groups: methods with the same best rank form a group."""
    ranks = sorted({row.best_rank for row in rows if row.best_rank})
    groups = {rank: number for number, rank in enumerate(ranks, start=1)}
    return [replace(row, tie_group=groups.get(row.best_rank, 0)) for row in rows]
