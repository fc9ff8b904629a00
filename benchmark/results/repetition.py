"""Compares a result with its repetition: lines that were measured again, in part or by an independent run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..core.documents import Result
from ..core.records import CheckpointLine, DriftLine, Record
from ..scoring.summary import in_order
from .agreement import Alternatives, Difference, checkpoint_difference, drift_difference, record_difference
from .documents import comparable, different_conditions
from .rescoring import RunLines
from .runs import Run


@dataclass(frozen=True)
class RepeatedLines:
    """Lines of a repetition by their keys."""

    records: dict[str, Record] = field(default_factory=dict)
    checkpoints: dict[tuple[int, str], CheckpointLine] = field(default_factory=dict)
    drift: dict[tuple[int | None, str | None, int | None], DriftLine] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: RunLines) -> RepeatedLines:
        """Return all lines of a run."""
        repeated = cls()
        for found in (lines.records, lines.checkpoints or (), lines.drift or ()):
            for line in found:
                repeated.add(line)
        return repeated

    def add(self, line: Record | CheckpointLine | DriftLine) -> None:
        """Add a line."""
        if isinstance(line, Record):
            self.records[line.case_id] = line
        elif isinstance(line, CheckpointLine):
            self.checkpoints[line.edits, line.case_id] = line
        else:
            self.drift[line.edits, line.case_id, line.block] = line


def differences(
    result: Result, stored: RunLines, again: RepeatedLines, alternatives: Alternatives, *, whole: bool = False
) -> list[Difference]:
    """Return the first difference of each line that was measured again.

    Args:
        result: the stored result.
        stored: its lines.
        again: the repetition.
        alternatives: perturbed measurements of the repetition; empty for none.
        whole: whether the repetition must have the same lines as the result, and no others.
    """
    complete = result.protocol.integrity is not None
    own = RepeatedLines.of(stored)
    if whole:
        for label, first, second in (
            ("cases", {*own.records}, {*again.records}),
            ("checkpoints", {*own.checkpoints}, {*again.checkpoints}),
            ("measurements of drift", {*own.drift}, {*again.drift}),
        ):
            if first != second:
                return [Difference(f"it has other {label} ({len(first)} in the file, {len(second)} here)")]
    found: list[Difference | None] = []
    for record in in_order(stored.records):
        if record.case_id in again.records:
            found.append(record_difference(record, again.records[record.case_id], alternatives, complete=complete))
    if own.checkpoints and again.records:
        for key, line in own.checkpoints.items():
            found.append(checkpoint_difference(line, again.checkpoints[key], alternatives, complete=complete))
    for place, drift in own.drift.items():
        if place in again.drift:
            found.append(drift_difference(drift, again.drift[place]))
    return [difference for difference in found if difference is not None]


def repetitions(stored: Sequence[Run], repeated: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return the stored results that some runs repeat, with the first run that repeats each.

    A repetition has the same editor, hyper-parameters, model, task and protocol. The version of the benchmark may
    differ.
    """
    by_key: dict[str, Run] = {}
    for run in repeated:
        by_key.setdefault(_settings_key(run.result), run)
    pairs = []
    for run in stored:
        other = by_key.get(_settings_key(run.result))
        if other is not None and set(different_conditions(run.result, other.result)) <= {"benchmark"}:
            pairs.append((run, other))
    return pairs


def _settings_key(result: Result) -> str:
    conditions: Mapping[str, object] = {k: v for k, v in comparable(result).items() if k != "benchmark"}
    return json.dumps([result.editor.name, result.editor.config, conditions], sort_keys=True)
