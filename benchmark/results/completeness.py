"""Checks that every probe was measured in the same way: leaving out an observation, or a part of one, changes means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.records import CheckpointLine, Observation, ProbeRecord, Record

_DIVERGENCES = {"kl", "js"}
"""Fields that only observations of an edited model have."""


def incomplete(records: Sequence[Record], checkpoints: Sequence[CheckpointLine]) -> str | None:
    """Return the first observation that is missing or lacks a part that others have, or None.

    Args:
        records: the records of a result.
        checkpoints: its checkpoint lines; empty unless the run is sequential.
    """
    shapes: dict[tuple[str, str, str], frozenset[str]] = {}
    by_case = {record.case_id: record for record in records}
    for number, record in enumerate(records):
        flaw = _missing(record)
        if flaw:
            return f"/{number}/{flaw}"
        for position, probe in enumerate(record.probes):
            for side, observation in (("before", probe.before), ("after", probe.after)):
                flaw = None if observation is None else _other_shape(shapes, probe, side, observation)
                if flaw:
                    return f"/{number}/probes/{position}/{side} {flaw}"
    for line in checkpoints:
        where = f"checkpoint of case '{line.case_id}' after {line.edits} edits:"
        for position, (probe, observation) in enumerate(zip(by_case[line.case_id].probes, line.after, strict=False)):
            if (observation is None) != (line.failure is not None):
                return f"{where} /after/{position} must be stated exactly if there is no failure"
            flaw = None if observation is None else _other_shape(shapes, probe, "after", observation)
            if flaw:
                return f"{where} /after/{position} {flaw}"
    return None


def _missing(record: Record) -> str | None:
    """Return which observations of a record are missing without the failure that explains it, or None."""
    before = [probe.before is None for probe in record.probes]
    after = [probe.after is None for probe in record.probes]
    unreadable = record.failure is not None and record.failure.phase == "tokenise"
    if any(before) != unreadable or any(before) != all(before):
        return "probes: observations of the unedited model are missing exactly if the tokenizer cannot encode the case"
    if any(after) != (record.failure is not None) or any(after) != all(after):
        return "probes: observations after the edit are missing exactly if it failed, and then all of them"
    return None


def _other_shape(
    shapes: dict[tuple[str, str, str], frozenset[str]], probe: ProbeRecord, side: str, observation: Observation
) -> str | None:
    """Return how the fields of an observation differ from those of the first one of its kind, or None."""
    fields = frozenset(_fields(observation))
    first = shapes.setdefault((probe.kind, probe.expect, side), fields)
    for label, missing in (("lacks", first - fields), ("has", fields - first)):
        if missing:
            return f"{label} '{min(missing)}', unlike other observations of its kind"
    expected = shapes.get((probe.kind, probe.expect, "before"), fields)
    if side == "after" and fields - _DIVERGENCES != expected - _DIVERGENCES:
        return f"has other parts than the observation before the edit: {', '.join(sorted(fields ^ expected))}"
    return None


def _fields(observation: Observation) -> Iterator[str]:
    """Yield the names of the parts of an observation that all of its kind must have.

    Its probe decides whether it has a rival, and its method for which prompts a text is recalled.
    """
    for name in type(observation).__struct_fields__:
        if name not in ("rival_answer", "recalled") and getattr(observation, name) is not None:
            yield name
