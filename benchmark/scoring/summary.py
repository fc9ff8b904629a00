"""Summaries: from the records of a run to the numbers of its result.

Every function is pure and needs no model. The numbers are reproducible to the byte.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..core.documents import (
    CheckpointsInfo,
    Cost,
    CurvePoint,
    DriftInfo,
    DriftPoint,
    DriftTask,
    Manifest,
    RecordsInfo,
    Result,
    SummaryRow,
)
from ..core.errors import KnbenchError
from ..core.records import CheckpointLine, DriftLine, Record
from ..core.schema import TaskKind
from .checkpoints import CheckpointRecord, at_checkpoint, unchanged
from .criteria import CRITERIA, MEASURES, STORED_MEASURES
from .edit_score_estimates import edit_score
from .effects import word_effects
from .intervals import Estimate, harmonic_mean_over_cases, mean_over_cases

ROME_SCORE = ("reliability", "paraphrase", "neighbourhood")
EXTENDED_SCORE = (*ROME_SCORE, "symmetry", "synonym")
COMPOSITES: Mapping[str, tuple[str, ...]] = {"score": ROME_SCORE, "extended_score": EXTENDED_SCORE}
COMPOSITE_MEASURES = ("success", "exact", "token_accuracy", "generated", "success_per_token")
CURVE_MEASURES = ("success", "exact", "token_accuracy", "generated", "kl")

Table = dict[tuple[str, str], list[list[float]]]
"""By criterion and measure: for each case, the values of its probes."""


def case_table(records: Sequence[Record], measures: Sequence[str]) -> Table:
    """Return the value of every probe by every measure that applies to it.

    The probes of a failed edit keep the answers of the unedited model, because the edit changed nothing. Leaving the
    case out would reward a method for failing on hard cases. Where the model collapsed under accumulated edits, every
    share is 0 instead.

    Args:
        records: the cases.
        measures: names of measures.

    Raises:
        KnbenchError: the observations of a record contradict each other or their probe.
    """
    selected = [MEASURES[name] for name in measures]
    present = {probe.criterion for record in records for probe in record.probes}
    table: Table = {(c, m.name): [[] for _ in records] for c in CRITERIA if c in present for m in selected}
    for position, record in enumerate(records):
        collapsed = isinstance(record, CheckpointRecord) and record.collapsed
        for number, probe in enumerate(record.probes):
            before, after = probe.before, probe.after
            if before is None or probe.criterion not in CRITERIA:
                continue
            if after is None:
                after = unchanged(probe)
            for measure in selected:
                try:
                    value = measure.of(probe, before, after)
                except (ValueError, OverflowError) as error:
                    raise KnbenchError(
                        f"case '{record.case_id}': the observations of probe {number} contradict each other or their "
                        f"probe ({type(error).__name__}: {error})"
                    ) from None
                if value is not None and collapsed:
                    value = 0.0 if measure.share and measure.higher_is_better else None
                if value is not None:
                    table[probe.criterion, measure.name][position].append(value)
    return table


def summarise(records: Sequence[Record], measures: Sequence[str] = STORED_MEASURES) -> tuple[SummaryRow, ...]:
    """Return one row per criterion and measure, followed by the composite scores.

    Probes are averaged within their case, then over cases. Every case has the same weight.
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
        parts = tuple(c for c in all_parts if c in present)
        if score == "extended_score" and set(parts) <= set(ROME_SCORE):
            continue  # the task has no criterion that would extend the score
        for name in COMPOSITE_MEASURES:
            composite = _composite([table[part, name] for part in parts], parts) if name in measures else None
            if composite is not None:
                rows.append(_row(score, name, *composite, parts))
    return tuple(rows)


def with_measures(result: Result, records: Sequence[Record], measures: Sequence[str]) -> Result:
    """Return a result whose summary also has measures that results do not store.

    Args:
        result: the result.
        records: its records; for a sequential run, with the observations after the last edit.
        measures: names of measures.
    """
    if not measures:
        return result
    return msgspec.structs.replace(result, summary=(*result.summary, *summarise(in_order(records), measures)))


def _composite(columns: Sequence[Sequence[list[float]]], parts: Sequence[str]) -> tuple[Estimate, int] | None:
    """Return the harmonic mean of criteria over the cases that have all of them, and the number of probes.

    Returns None if a criterion of the score does not have the measure: the harmonic mean of the others would be another
    score under the same name.

    Args:
        columns: for each part, the values of each case.
        parts: the criteria.
    """
    if not set(ROME_SCORE) <= set(parts):
        return None
    whole = [row for row in zip(*columns, strict=True) if all(row)]
    if not whole:
        return None
    means = {c: [sum(row[i]) / len(row[i]) for row in whole] for i, c in enumerate(parts)}
    estimate = harmonic_mean_over_cases(means)
    return (estimate, sum(len(cell) for row in whole for cell in row)) if estimate else None


def _row(
    criterion: str, measure: str, estimate: Estimate, probes: int, parts: tuple[str, ...] | None = None
) -> SummaryRow:
    return SummaryRow(
        criterion=criterion,
        measure=measure,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        interval=estimate.method,
        cases=estimate.cases,
        probes=probes,
        parts=parts,
    )


def cost(records: Iterable[Record]) -> Cost:
    """Return the cost of edits, each number over the cases that have it.

    Bytes per fact are those of the largest store beside the weights: in a sequence, the last one. Seconds per query are
    the difference of the times of a case with and without the edit, divided by the number of its probes.
    """
    records = list(records)
    timings = [record.timings for record in records]
    sizes = [record.edit.size for record in records if record.edit.size is not None and record.edit.size.entries]
    stored = [(size.entries, (size.memory + size.recall) / size.entries) for size in sizes]
    added = [
        (t.probe_seconds - t.unedited_seconds) / len(record.probes)
        for record in records
        for t in [record.timings]
        if t.probe_seconds is not None and t.unedited_seconds is not None and record.probes
    ]
    edit = [t.edit_seconds for t in timings if t.edit_seconds is not None]
    probe = [t.probe_seconds for t in timings if t.probe_seconds is not None]
    peaks = [t.peak_memory_mb for t in timings if t.peak_memory_mb is not None]
    return Cost(
        edit_seconds=statistics.median(edit) if edit else None,
        probe_seconds=statistics.median(probe) if probe else None,
        peak_memory_mb=max(peaks, default=None),
        bytes_per_fact=statistics.median(share for n, share in stored if n == max(stored)[0]) if stored else None,
        seconds_per_query=statistics.median(added) if added else None,
    )


def result_from(
    manifest: Manifest,
    records: Sequence[Record],
    records_sha256: str,
    *,
    checkpoints: tuple[Sequence[CheckpointLine], str] | None = None,
    drift: DriftInfo | None = None,
) -> Result:
    """Build the result of a finished run, a pure function of its manifest and its files.

    Args:
        manifest: the run's manifest.
        records: one record per case, in any order.
        records_sha256: hash of the records file.
        checkpoints: for sequential runs, the checkpoint lines and the hash of their file. ``summary`` is then taken
            after the last edit, ``immediate`` right after each case's own edit, and ``curve`` at every checkpoint.
        drift: where it was measured.
    """
    ordered = in_order(records)
    failures: dict[str, int] = {}
    for record in ordered:
        if record.failure:
            failures[record.failure.type] = failures.get(record.failure.type, 0) + 1
    kind = manifest.task.kind
    immediate, immediate_score = summarise(ordered), edit_score(ordered, kind)
    summary, final_score, curve = immediate, immediate_score, None
    if checkpoints is not None:
        summary, curve = retention(ordered, checkpoints[0], kind)
        final_score = curve[-1].edit_score
    return Result(
        **{name: getattr(manifest, name) for name in Manifest.__struct_fields__},
        records=RecordsInfo(
            file="records.jsonl",
            sha256=records_sha256,
            cases=len(ordered),
            failed=sum(failures.values()),
            failures=failures,
        ),
        cost=cost(ordered),
        summary=summary,
        effect=tuple(word_effects(ordered)) if kind == "linguistic" else None,
        checkpoints=checkpoints
        and CheckpointsInfo(file="checkpoints.jsonl", sha256=checkpoints[1], lines=len(checkpoints[0])),
        immediate=immediate if checkpoints else None,
        curve=curve,
        drift=drift,
        edit_score=final_score,
        immediate_edit_score=immediate_score if checkpoints else None,
    )


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return records in the order of their cases; lines of a file may have another order."""
    return sorted(records, key=lambda record: record.index)


def retention(
    ordered: Sequence[Record], lines: Sequence[CheckpointLine], kind: TaskKind
) -> tuple[tuple[SummaryRow, ...], tuple[CurvePoint, ...]]:
    """Return the summary after the last edit of a sequential run, and summaries at every checkpoint.

    Args:
        ordered: the records in the order of their edits.
        lines: the checkpoint lines.
        kind: kind of the task.
    """
    checkpoints: dict[int, dict[str, CheckpointLine]] = {}
    for line in lines:
        checkpoints.setdefault(line.edits, {})[line.case_id] = line
    curve = []
    for edits in sorted(checkpoints):
        so_far = ordered[:edits]
        now = [at_checkpoint(record, checkpoints[edits][record.case_id]) for record in so_far]
        curve.append(
            CurvePoint(
                edits=edits,
                immediate=summarise(so_far, CURVE_MEASURES),
                now=summarise(now, CURVE_MEASURES),
                edit_score=edit_score(now, kind),
            )
        )
    last = checkpoints[max(checkpoints)]
    return summarise([at_checkpoint(record, last[record.case_id]) for record in ordered]), tuple(curve)


def summarise_drift(lines: Sequence[DriftLine], where: str, lines_sha256: str) -> DriftInfo:
    """Return, for each drift task, its mean on the unedited model and the differences after edits.

    Sequential runs have one difference per checkpoint. Its interval is over the samples of the task, each compared with
    itself. Single edits and batches have one difference, the mean over all edits, with an interval over edits. A
    measurement whose model gave no probabilities contributes no difference and is counted in ``failed``.

    Args:
        lines: the drift lines.
        where: path of their file, for messages.
        lines_sha256: hash of the file.

    Raises:
        KnbenchError: the unedited model was not measured, or samples differ between lines.
    """
    unedited = next((line for line in lines if line.edits == 0), None)
    if unedited is None:
        raise KnbenchError(f"{where}: the line of the unedited model is missing; start the run again to continue it")
    edited = [line for line in lines if line.edits != 0 and line.failure is None]
    tasks = []
    for number, task in enumerate(unedited.tasks):
        points: list[DriftPoint] = []
        changes = []
        for line in edited:
            samples = line.tasks[number] if number < len(line.tasks) else None
            if samples is None or samples.task != task.task or len(samples.values) != len(task.values):
                raise KnbenchError(f"{where}: task '{task.task}' was not measured on the same samples everywhere")
            differences = [a - b for a, b in zip(samples.values, task.values, strict=True)]
            changes.append(sum(differences) / len(differences))
            if line.edits is not None:
                points.append(_drift_point(line.edits, mean_over_cases(differences, share=False)))
        if changes and not points:
            points = [_drift_point(None, mean_over_cases(changes, share=False))]
        tasks.append(
            DriftTask(
                task=task.task,
                metric=task.metric,
                higher_is_better=task.higher_is_better,
                samples=len(task.values),
                before=sum(task.values) / len(task.values),
                points=tuple(sorted(points, key=lambda point: point.edits or 0)),
            )
        )
    failed = sum(line.failure is not None for line in lines)
    return DriftInfo(file="drift.jsonl", sha256=lines_sha256, failed=failed, tasks=tuple(tasks))


def _drift_point(edits: int | None, estimate: Estimate) -> DriftPoint:
    return DriftPoint(
        edits=edits,
        difference=estimate.value,
        low=estimate.low,
        high=estimate.high,
        interval=estimate.method,
        over=estimate.cases,
    )
