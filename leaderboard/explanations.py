"""Definitions of all columns, each with an example from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.results.controls import LIMITS
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.edit_score import FAMILIES, PRESERVATION
from .cases import CaseView, ProbeView, said
from .columns import all_columns
from .paths import fact_page, method_anchor
from .reading import ReadResult

__all__ = ["MEASURES", "Example", "Explanation", "as_json", "explanations"]


@dataclass(frozen=True)
class Example:
    """A probe of a result.

    Attributes:
        edit: the edit in words.
        question: the probe.
        wanted: the expected answer, in words.
        before: answer of the unedited model.
        after: answer after the edit by ``method``.
        page: path of the case.
    """

    edit: str
    question: str
    wanted: str
    before: str
    after: str
    method: str
    page: str


@dataclass(frozen=True)
class Explanation:
    """A number of the tables: its name, title, definition, and an example or None."""

    name: str
    title: str
    definition: str
    example: Example | None


def explanations(read: Sequence[ReadResult]) -> list[Explanation]:
    """Return the definition of every column.

    Args:
        read: results that the examples are taken from.
    """
    examples = _examples(read)
    found = {column.name: column for column in all_columns()}
    return [Explanation(c.name, c.title, c.note, examples.get(_criterion(c.name))) for c in found.values()]


def _criterion(column: str) -> str:
    """Return the criterion that illustrates a column."""
    if column in FAMILIES:
        return FAMILIES[column][0]
    return column.removeprefix("kept_")


def _examples(read: Sequence[ReadResult]) -> dict[str, Example]:
    """Return one example per criterion, from the best method other than a control.

    The example is a fact if facts have the criterion.
    """

    def order(found: ReadResult) -> tuple[bool, bool, float]:
        result = found.entry.result
        scores = found.entry.score
        is_control = result.editor.kind == "control" or result.editor.name in LIMITS
        return is_control, result.task.kind != "fact", -(float(scores.value) if scores else 0.0)

    examples: dict[str, Example] = {}
    for found in sorted(read, key=order):
        for probe in sorted(found.example.probes, key=lambda p: p.kind != "completion"):
            name = next((c.name for c in CRITERIA.values() if c.title == probe.criterion), "")
            if name and name not in examples and probe.kind in ("completion", "minimal_pair"):
                examples[name] = _example(found, found.example, probe)
    for name, members in (("gain", FAMILIES["direct"]), ("preservation", PRESERVATION)):
        first = next((examples[c] for c in members if c in examples), None)
        if first is not None:
            examples[name] = first
    return examples


def _example(found: ReadResult, case: CaseView, probe: ProbeView) -> Example:
    summary = case.summary
    page = f"{fact_page(found.entry.result, summary.name)}#{method_anchor(found.entry.method)}"
    return Example(
        edit=f"{summary.prompt} {summary.target_new}",
        question=f"{probe.prompt} …" if probe.kind == "completion" else f"{probe.target} / {probe.rival}",
        wanted=probe.target,
        before=said(probe, probe.before) or "not measured",
        after=said(probe, probe.after) or "not measured",
        method=found.entry.method,
        page=page,
    )


def as_json(found: Sequence[Explanation]) -> Mapping[str, Any]:
    """Return definitions as JSON values by name."""
    return {
        one.name: {
            "title": one.title,
            "definition": one.definition,
            "example": one.example.__dict__ if one.example else None,
        }
        for one in found
    }
