"""From raw records to the numbers of a result: pure, without a model, reproducible to the byte."""

from __future__ import annotations

import statistics as stdlib_statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .criteria import CRITERIA, MEASURES, Measure
from .statistics import Estimate, harmonic_mean_over_cases, mean_over_cases

ROME_SCORE = ("reliability", "paraphrase", "neighbourhood")
EXTENDED_SCORE = (*ROME_SCORE, "symmetry", "synonym")
COMPOSITES: Mapping[str, tuple[str, ...]] = {"score": ROME_SCORE, "extended_score": EXTENDED_SCORE}
COMPOSITE_MEASURES = ("success", "exact", "token_accuracy", "generated")

Row = Mapping[str, Any]


def case_values(record: Row, criterion: str, measure: Measure) -> list[float]:
    """Return a measure's value for each of a case's probes of one criterion.

    A failed edit changed nothing, so its probes count as answered by the unedited model: leaving the case out
    would reward a method for failing on hard cases.
    """
    values = []
    for probe in record["probes"]:
        if probe["criterion"] != criterion or probe.get("before") is None:
            continue
        before = probe["before"]
        after = probe.get("after")
        if after is None:
            after = {**before, "kl": 0.0} if probe["expect"] == "unchanged" else before
        value = measure.of(probe, before, after)
        if value is not None:
            values.append(value)
    return values


def summarise(records: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row per criterion and measure, then the composite scores.

    Probes are averaged within their case first, then over cases, each case counting the same.
    """
    rows = []
    present = [c for c in CRITERIA if any(p["criterion"] == c for r in records for p in r["probes"])]
    for criterion in present:
        for measure in MEASURES.values():
            per_case = [case_values(record, criterion, measure) for record in records]
            means = [sum(values) / len(values) for values in per_case if values]
            if means:
                estimate = mean_over_cases(means, share=measure.share)
                rows.append(_row(criterion, measure.name, estimate, sum(map(len, per_case))))
    for name, all_parts in COMPOSITES.items():
        parts = [c for c in all_parts if c in present]
        if name == "extended_score" and set(parts) <= set(ROME_SCORE):
            continue  # the task has nothing that would extend the score
        for measure_name in COMPOSITE_MEASURES:
            composite = _composite(records, parts, MEASURES[measure_name])
            if composite is not None:
                rows.append({**_row(name, measure_name, *composite), "parts": parts})
    return rows


def _composite(records: Sequence[Row], parts: Sequence[str], measure: Measure) -> tuple[Estimate, int] | None:
    """Harmonic mean of criteria, over the cases that have them all.

    None where some criterion of the score does not have this measure: leaving it out would give another score
    under the same name.
    """
    if not set(ROME_SCORE) <= set(parts):
        return None
    table = [[case_values(record, criterion, measure) for criterion in parts] for record in records]
    whole = [row for row in table if all(row)]
    if not whole:
        return None
    columns = {c: [sum(row[i]) / len(row[i]) for row in whole] for i, c in enumerate(parts)}
    estimate = harmonic_mean_over_cases(columns)
    return (estimate, sum(len(cell) for row in whole for cell in row)) if estimate else None


def _row(criterion: str, measure: str, estimate: Estimate, probes: int) -> dict[str, Any]:
    return {
        "criterion": criterion,
        "measure": measure,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "interval": estimate.method,
        "cases": estimate.cases,
        "probes": probes,
    }


def cost(records: Iterable[Row]) -> dict[str, Any]:
    """Return the median seconds of an edit and of its probes, and the peak memory, over the cases that have them."""
    timings = [record["timings"] for record in records]

    def median(key: str) -> float | None:
        values = [t[key] for t in timings if t.get(key) is not None]
        return stdlib_statistics.median(values) if values else None

    peaks = [t["peak_memory_mb"] for t in timings if t.get("peak_memory_mb") is not None]
    return {
        "edit_seconds": median("edit_seconds"),
        "probe_seconds": median("probe_seconds"),
        "peak_memory_mb": max(peaks, default=None),
    }


def result_from(manifest: Row, records: Sequence[Row], records_sha256: str) -> dict[str, Any]:
    """Build the result document of a finished run: a pure function of its manifest and its records."""
    ordered = sorted(records, key=lambda record: record["index"])
    failures: dict[str, int] = {}
    for record in ordered:
        if record["failure"]:
            failures[record["failure"]["type"]] = failures.get(record["failure"]["type"], 0) + 1
    return {
        **manifest,
        "records": {
            "file": "records.jsonl",
            "sha256": records_sha256,
            "cases": len(ordered),
            "failed": sum(failures.values()),
            "failures": failures,
        },
        "cost": cost(ordered),
        "summary": summarise(ordered),
    }
