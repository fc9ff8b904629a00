"""Validation and comparison of edits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..core.errors import KnbenchError
from ..editing import Edit
from ..models.language_model import LanguageModel
from ..running.attempts import state_error, store_error
from .fixtures import OTHER_REQUEST, REQUEST
from .snapshots import join_names, tensor_digest


def application_errors(edit: Edit, lm: LanguageModel) -> Iterator[str]:
    """Yield the reasons why an edit cannot be applied to a model."""
    # An editor can return other types than those that Edit declares.
    weights, prefix = cast("Mapping[str, Any]", edit.weights), cast(object, edit.prefix)
    for name, new in weights.items():
        try:
            parameter = lm.parameter(name)
        except KnbenchError:
            yield f"weights names '{name}', which is not a parameter of the model"
            continue
        if not isinstance(new, Tensor):
            yield f"weights of '{name}' is {type(new).__name__}, not a tensor"
        elif new.shape != parameter.shape:
            yield f"weights of '{name}' has shape {tuple(new.shape)}, the parameter {tuple(parameter.shape)}"
        elif new.dtype != parameter.dtype:
            yield f"weights of '{name}' has dtype {new.dtype}, the parameter {parameter.dtype}"
        elif not bool(new.isfinite().all()):
            yield f"weights of '{name}' contains values that are not finite"
    for name in edit.outputs:
        try:
            lm.model.get_submodule(name)
        except AttributeError:
            yield f"outputs names '{name}', which is not a module of the model"
    for name, memory in edit.memories.items():
        try:
            if lm.model.get_submodule(name) is lm.head:
                yield f"memories names '{name}', which is the output head"
        except AttributeError:
            yield f"memories names '{name}', which is not a module of the model"
        if problem := store_error(memory, f"memories['{name}']"):
            yield problem
    if edit.recall is not None and (problem := store_error(edit.recall, "recall")):
        yield problem
    if not isinstance(prefix, str):
        yield f"prefix is {type(prefix).__name__}, not str"


def sample_logits(lm: LanguageModel) -> Tensor:
    """Return the model's logits on the prompts of both requests, (2, position, vocabulary), computed as probers do."""
    texts = [lm.encode(lm.preface(request.text) + request.text).ids for request in (REQUEST, OTHER_REQUEST)]
    batch = lm.pad(texts)
    with torch.no_grad(), lm.reading(batch, [len(text) for text in texts]):
        logits: Tensor = lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
    return logits


def fingerprint(edit: Edit, lm: LanguageModel) -> dict[str, Any]:
    """Return values that identify an edit bit for bit. Output functions are identified by their effect on the logits.

    Diagnostics are excluded because they may contain times.
    """
    items: dict[str, Any] = {f"weights of {name}": tensor_digest(new) for name, new in edit.weights.items()}
    items["prefix"] = edit.prefix
    items["state"] = None if edit.state is None or state_error(edit.state) else edit.state.digest()
    items["memories"] = {name: memory.digest() for name, memory in edit.memories.items()}
    items["recall"] = None if edit.recall is None else edit.recall.digest()
    items["names of outputs"] = sorted(edit.outputs)
    if edit.outputs and not any(application_errors(edit, lm)):
        with Edit(outputs=edit.outputs).applied(lm):
            items["effect of outputs"] = tensor_digest(sample_logits(lm))
    return items


def fingerprint_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Return the names of the items in which two fingerprints differ."""
    return join_names([key for key in {**first, **second} if first.get(key) != second.get(key)])


def relative_distance(edit: Edit, reference: Edit, lm: LanguageModel) -> float:
    """Return the distance of two edits' changes relative to the size of the reference's change.

    The changes are compared, not the weights, whose norm hides a small update. The result is the maximum over weights
    and over the effect of output functions on the logits. It is infinite if the edits change different parts.
    """
    if set(edit.weights) != set(reference.weights) or set(edit.outputs) != set(reference.outputs):
        return float("inf")
    if set(edit.memories) != set(reference.memories) or _recalled(edit, lm) != _recalled(reference, lm):
        return float("inf")
    if edit.prefix != reference.prefix:
        return float("inf")
    triples = [(new, reference.weights[name], lm.parameter(name).detach()) for name, new in edit.weights.items()]
    if edit.outputs or edit.memories:
        unedited, logits = sample_logits(lm), []
        for one in (edit, reference):
            with Edit(outputs=one.outputs, memories=one.memories).applied(lm):
                logits.append(sample_logits(lm))
        triples.append((logits[0], logits[1], unedited))
    largest = 0.0
    for new, expected, original in triples:
        if new.shape != expected.shape:
            return float("inf")
        difference = (new.detach() - expected.detach()).norm()
        change = (expected.detach() - original).norm()
        rounding = original.norm() * torch.finfo(original.dtype).eps
        largest = max(largest, float(difference / (change + rounding)) if difference else 0.0)
    return largest


def _recalled(edit: Edit, lm: LanguageModel) -> list[str]:
    """Return the texts before the prompts of both requests."""
    with Edit(recall=edit.recall).applied(lm):
        return [lm.recalled(request.text) for request in (REQUEST, OTHER_REQUEST)]
