"""Builds records from edits and observations."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..core.records import EditRecord, Failure, Observation, ProbeRecord, Record, RequestRecord, SizeRecord, Timings
from ..core.schema import Case
from ..editing import Edit
from .attempts import Attempt


def make_record(
    index: int,
    case: Case,
    attempt: Attempt,
    before: Sequence[Observation] | None,
    after: Sequence[Observation] | None,
    failure: Failure | None,
    *,
    probe_seconds: float | None = None,
    state: str | None = None,
    unedited_seconds: float | None = None,
) -> Record:
    """Build the record of a case.

    Args:
        index: position of the case in the run.
        case: the case.
        attempt: its edit, or the failure to compute one.
        before: observations of the unedited model, one per probe; None if the case could not be measured.
        after: observations of the edited model; None if they were not taken.
        failure: the error that prevented edit or measurement.
        probe_seconds: time of the measurement after the edit.
        state: for sequential runs, the fingerprint of the weights and of the method's state after the edit.
        unedited_seconds: time to measure the case on the unedited model. It is recorded if the edit keeps something
            beside the weights.
    """
    missing: Sequence[Observation | None] = [None] * len(case.probes)
    edit = attempt.edit or Edit()
    return Record(
        index=index,
        case_id=case.id,
        source=case.source,
        request=RequestRecord.of(case.request),
        edit=EditRecord(
            parameters=tuple(sorted(edit.weights)),
            parameters_touched=sum(tensor.numel() for tensor in edit.weights.values()),
            modules=tuple(sorted({*edit.outputs, *edit.memories})),
            prefix=edit.prefix,
            diagnostics=json_values(edit.diagnostics),
            state=state,
            size=None if attempt.edit is None else SizeRecord(**dataclasses.asdict(edit.size)),
        ),
        probes=tuple(
            ProbeRecord(**vars(probe), before=b, after=a)
            for probe, b, a in zip(case.probes, before or missing, after or missing, strict=True)
        ),
        failure=failure,
        timings=Timings(
            edit_seconds=attempt.seconds,
            probe_seconds=probe_seconds,
            peak_memory_mb=attempt.peak_memory_mb,
            unedited_seconds=unedited_seconds if edit.memories or edit.recall else None,
        ),
        further=tuple(RequestRecord.of(request) for request in case.further) or None,
    )


MAX_ELEMENTS = 64
"""Number of elements up to which a tensor or array is stored as a list; a larger one is described."""
MAX_DEPTH = 20


def json_values(value: Any, depth: int = 0) -> Any:
    """Return a value in a form that JSON can hold.

    Infinite and NaN floats, as divergent losses have, become text. Tensors and arrays become numbers or lists, sets
    become sorted lists, and enumerations their values. Large tensors and objects of other types are described.

    >>> json_values({"loss": torch.tensor(1.5), "norms": np.ones(2), "layers": {5, 4}, "best": float("inf")})
    {'loss': 1.5, 'norms': [1.0, 1.0], 'layers': [4, 5], 'best': 'inf'}
    >>> json_values([torch.zeros(100, 3), torch.float16, object()])
    ['float32 tensor of shape (100, 3)', 'torch.float16', 'object']
    """
    if value is None or isinstance(value, bool | str):
        return value.encode(errors="replace").decode() if isinstance(value, str) else value
    if isinstance(value, enum.Enum):
        return json_values(value.value, depth)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, torch.dtype | torch.device | complex):
        return str(value)
    if isinstance(value, torch.Tensor):
        if value.numel() > MAX_ELEMENTS or value.is_complex():
            return f"{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
        return json_values(value.detach().cpu().tolist(), depth)
    if isinstance(value, np.ndarray | np.generic):
        plain = value.size <= MAX_ELEMENTS and value.dtype.kind in "biufUS"
        return json_values(value.tolist(), depth) if plain else f"{value.dtype} array of shape {value.shape}"
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(json_values(str(key))): json_values(item, depth + 1) for key, item in value.items()}
        if isinstance(value, set | frozenset):
            return sorted((json_values(item, depth + 1) for item in value), key=_order)
        if isinstance(value, list | tuple | range):
            return [json_values(item, depth + 1) for item in value]
    return type(value).__name__


def _order(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value if isinstance(value, int | float | str) else str(value)
