"""Records as they are scored: with the observations of a checkpoint, or as if the edit changed nothing."""

from __future__ import annotations

import msgspec

from ..core.errors import KnbenchError
from ..core.records import CheckpointLine, Observation, ProbeRecord, Record


class CheckpointRecord(Record, frozen=True, kw_only=True):
    """A record whose probes hold the observations of a checkpoint instead of those after the case's own edit.

    Attributes:
        collapsed: whether the model gave no probabilities at the checkpoint.
    """

    collapsed: bool


def at_checkpoint(record: Record, line: CheckpointLine) -> CheckpointRecord:
    """Return a record with the observations of a checkpoint.

    Raises:
        KnbenchError: the number of observations differs from the number of probes.
    """
    if len(line.after) != len(record.probes):
        raise KnbenchError(
            f"checkpoint of case '{record.case_id}' after {line.edits} edits holds {len(line.after)} observations for "
            f"{len(record.probes)} probes"
        )
    fields = {name: getattr(record, name) for name in Record.__struct_fields__}
    probes = tuple(
        ProbeRecord(**{**vars(probe), "after": after}) for probe, after in zip(record.probes, line.after, strict=True)
    )
    return CheckpointRecord(**{**fields, "probes": probes}, collapsed=line.failure is not None)


def unchanged(probe: ProbeRecord) -> Observation:
    """Return the observation after an edit that changed nothing: the one before it, at a divergence of 0.

    Raises:
        ValueError: the probe was not measured.
    """
    if probe.before is None:
        raise ValueError("the probe was not measured on the unedited model")
    return msgspec.structs.replace(probe.before, kl=0.0, js=0.0) if probe.expect == "unchanged" else probe.before
