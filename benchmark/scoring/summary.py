"""From raw records to the numbers of a result: pure, without a model, reproducible to the byte."""

from __future__ import annotations

import statistics as stdlib_statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.errors import KnbenchError
from .criteria import CRITERIA, MEASURES
from .effects import word_effects
from .intervals import Estimate, harmonic_mean_over_cases, mean_over_cases

ROME_SCORE = ("reliability", "paraphrase", "neighbourhood")
EXTENDED_SCORE = (*ROME_SCORE, "symmetry", "synonym")
COMPOSITES: Mapping[str, tuple[str, ...]] = {"score": ROME_SCORE, "extended_score": EXTENDED_SCORE}
COMPOSITE_MEASURES = ("success", "exact", "token_accuracy", "generated")

Row = Mapping[str, Any]


Table = dict[tuple[str, str], list[list[float]]]
"""By criterion and measure: for each case, the values of its probes."""


def measured_again(record: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with what was observed at a stop in place of what was observed after its own edit.

    Raises:
        KnbenchError: the line has not as many observations as the case has probes.
    """
    if len(line["after"]) != len(record["probes"]):
        raise KnbenchError(
            f"checkpoint of case '{record['case_id']}' after {line['edits']} edits holds {len(line['after'])} "
            f"observations for {len(record['probes'])} probes"
        )
    probes = [{**probe, "after": after} for probe, after in zip(record["probes"], line["after"], strict=True)]
    return {**record, "probes": probes, "collapsed": bool(line["failure"])}


def case_table(records: Sequence[Row], measures: Sequence[str]) -> Table:
    """Return every probe's value by every measure that applies to it.

    A failed edit changed nothing, so its probes count as answered by the unedited model: leaving the case out
    would reward a method for failing on hard cases. Where a model fell apart under the edits that piled up, every
    share is 0 instead.

    Raises:
        KnbenchError: a record's observations cannot be judged, as no run writes them.
    """
    judged = [MEASURES[name] for name in measures]
    present = dict.fromkeys(probe["criterion"] for record in records for probe in record["probes"])
    table: Table = {(c, m.name): [[] for _ in records] for c in CRITERIA if c in present for m in judged}
    for place, record in enumerate(records):
        for number, probe in enumerate(record["probes"]):
            before, after = probe.get("before"), probe.get("after")
            if before is None or probe["criterion"] not in CRITERIA:
                continue
            if after is None:
                after = {**before, "kl": 0.0} if probe["expect"] == "unchanged" else before
            for measure in judged:
                try:
                    value = measure.of(probe, before, after)
                except (KeyError, ValueError, OverflowError) as error:
                    raise KnbenchError(
                        f"case '{record['case_id']}': the observations of probe {number} do not fit each other or "
                        f"their probe ({type(error).__name__}: {error})"
                    ) from None
                if value is not None and record.get("collapsed"):
                    value = 0.0 if measure.share and measure.higher_is_better else None
                if value is not None:
                    table[probe["criterion"], measure.name][place].append(value)
    return table


def summarise(records: Sequence[Row], measures: Sequence[str] = tuple(MEASURES)) -> list[dict[str, Any]]:
    """Return one row per criterion and measure, then the composite scores.

    Probes are averaged within their case first, then over cases, each case counting the same.
    """
    rows = []
    table = case_table(records, measures)
    present = list(dict.fromkeys(criterion for criterion, _ in table))
    for (criterion, name), per_case in table.items():
        means = [sum(values) / len(values) for values in per_case if values]
        if means:
            estimate = mean_over_cases(means, share=MEASURES[name].share)
            rows.append(_row(criterion, name, estimate, sum(map(len, per_case))))
    for score, all_parts in COMPOSITES.items():
        parts = [c for c in all_parts if c in present]
        if score == "extended_score" and set(parts) <= set(ROME_SCORE):
            continue  # the task has nothing that would extend the score
        for name in COMPOSITE_MEASURES:
            composite = _composite([table[part, name] for part in parts], parts) if name in measures else None
            if composite is not None:
                rows.append({**_row(score, name, *composite), "parts": parts})
    return rows


def _composite(columns: Sequence[Sequence[list[float]]], parts: Sequence[str]) -> tuple[Estimate, int] | None:
    """Harmonic mean of criteria, over the cases that have them all.

    None where some criterion of the score does not have this measure: leaving it out would give another score
    under the same name.

    Args:
        columns: of each part, each case's values.
        parts: their criteria.
    """
    if not set(ROME_SCORE) <= set(parts):
        return None
    whole = [row for row in zip(*columns, strict=True) if all(row)]
    if not whole:
        return None
    means = {c: [sum(row[i]) / len(row[i]) for row in whole] for i, c in enumerate(parts)}
    estimate = harmonic_mean_over_cases(means)
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
    ordered = in_order(records)
    failures: dict[str, int] = {}
    for record in ordered:
        if record["failure"]:
            failures[record["failure"]["type"]] = failures.get(record["failure"]["type"], 0) + 1
    linguistic = manifest.get("task", {}).get("kind") == "linguistic"
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
        **({"effect": word_effects(ordered)} if linguistic else {}),
    }


def in_order(records: Iterable[Row]) -> list[Row]:
    """Return records in the order of their cases, which need not be that of their lines."""
    return sorted(records, key=lambda record: record["index"])


# --- sequential edits --------------------------------------------------------------------------------------------

CURVE_MEASURES = ("success", "exact", "token_accuracy", "generated", "kl")


def retention(records: Sequence[Row], lines: Sequence[Row], lines_sha256: str) -> dict[str, Any]:
    """Return what a sequential run adds to a result, and the summary that takes the place of the other.

    ``summary`` is that of all cases after the last edit, ``immediate`` that of each right after its own, and ``curve``
    holds at every stop both of them over the cases so far.
    """
    ordered = in_order(records)
    again: dict[int, dict[str, Row]] = {}
    for line in lines:
        again.setdefault(line["edits"], {})[line["case_id"]] = line
    curve = []
    for edits in sorted(again):
        so_far = ordered[:edits]
        now = [measured_again(record, again[edits][record["case_id"]]) for record in so_far]
        curve.append(
            {
                "edits": edits,
                "immediate": summarise(so_far, CURVE_MEASURES),
                "now": summarise(now, CURVE_MEASURES),
            }
        )
    last = again[max(again)]
    return {
        "checkpoints": {"file": "checkpoints.jsonl", "sha256": lines_sha256, "lines": len(lines)},
        "summary": summarise([measured_again(record, last[record["case_id"]]) for record in ordered]),
        "immediate": summarise(ordered),
        "curve": curve,
    }


# --- drift -------------------------------------------------------------------------------------------------------


def summarise_drift(lines: Sequence[Row], where: str, lines_sha256: str) -> dict[str, Any]:
    """Return drift: of each task its mean on the unedited model, and the difference to it after edits.

    Of sequential edits there is one difference per stop, whose interval is over the task's samples, each compared with
    itself. Of single edits and batches there is one, the mean over all edits, whose interval is over the edits. Where
    the edited model gave no probabilities there is no difference; ``failed`` counts these.

    Raises:
        KnbenchError: the unedited model was not measured, or something else was measured on the edited one.
    """
    unedited = next((line for line in lines if line.get("edits") == 0), None)
    if unedited is None:
        raise KnbenchError(f"{where}: the unedited model's line is missing; start the run again to continue it")
    edited = [line for line in lines if line.get("edits") != 0 and not line.get("failure")]
    rows = []
    for number, task in enumerate(unedited["tasks"]):
        before = task["values"]
        points: list[dict[str, Any]] = []
        changes = []
        for line in edited:
            found = line["tasks"][number] if number < len(line["tasks"]) else {"task": None, "values": []}
            if found["task"] != task["task"] or len(found["values"]) != len(before):
                raise KnbenchError(f"{where}: task '{task['task']}' was not measured on the same samples everywhere")
            differences = [a - b for a, b in zip(found["values"], before, strict=True)]
            changes.append(sum(differences) / len(differences))
            if "edits" in line:
                points.append({"edits": line["edits"], **_difference(mean_over_cases(differences, share=False))})
        if changes and not points:
            points = [{"edits": None, **_difference(mean_over_cases(changes, share=False))}]
        rows.append(
            {
                "task": task["task"],
                "metric": task["metric"],
                "higher_is_better": task["higher_is_better"],
                "samples": len(before),
                "before": sum(before) / len(before),
                "points": sorted(points, key=lambda point: point["edits"] or 0),
            }
        )
    failed = sum(bool(line.get("failure")) for line in lines)
    return {"file": "drift.jsonl", "sha256": lines_sha256, "failed": failed, "tasks": rows}


def _difference(estimate: Estimate) -> dict[str, Any]:
    return {
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "interval": estimate.method,
        "over": estimate.cases,
    }
