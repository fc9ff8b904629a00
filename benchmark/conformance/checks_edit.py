"""Checks of the Edit that an editor returns: its tensors and its diagnostics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..editing import State
from ..models.language_model import LanguageModel
from ..running.provenance import describe_editor
from .edits import application_errors, sample_logits
from .fixtures import OTHER_REQUEST, REQUEST, ModelFixture
from .harness import Note
from .snapshots import join_names, tensor_digest, tensor_digests


def declared_parameters_only(fixture: ModelFixture) -> Iterator[str]:
    """The edit fits the model, and applying it changes only the parameters that Edit.weights names.

    Each tensor has the name, shape and dtype of its parameter and is finite. Parameters that are tied to a named one
    may change too. The result reports the named parameters as those that the edit changed.
    """
    lm = fixture.model()
    edit = fixture.edit(fixture.editor(lm), lm, REQUEST)
    errors = list(application_errors(edit, lm))
    yield from errors
    if errors:
        return
    named = {id(lm.parameter(name)) for name in edit.weights}
    original = tensor_digests(lm)
    with edit.applied(lm):
        logits = sample_logits(lm)
        edited = tensor_digests(lm)
        parameters = dict(lm.model.named_parameters(remove_duplicate=False))
    undeclared = [n for n in edited if edited[n] != original.get(n) and id(parameters.get(n)) not in named]
    if undeclared:
        yield f"the applied edit changes parameters that Edit.weights does not name: {join_names(undeclared)}"
    if edit.outputs and not bool(logits.isfinite().all()):
        yield "with the edit applied, the model's logits are not finite"


def plain_json(fixture: ModelFixture) -> Iterator[str]:
    """Edit.diagnostics and the return value of prepare() are JSON-serialisable, without NaN.

    JSON holds numbers, strings, lists and mappings. Both values are written into the results, and a tensor in them
    stops the run. Use float(x) and x.tolist().
    """
    lm = fixture.model()
    editor = fixture.unprepared_editor(lm)
    prepared = fixture.prepare(editor, lm)
    edit = fixture.edit(editor, lm, REQUEST)
    values: dict[str, Callable[[], object]] = {
        "the return value of prepare()": lambda: describe_editor(editor, "", prepared).prepared,
        "Edit.diagnostics": lambda: dict(edit.diagnostics),
    }
    for label, value in values.items():
        try:
            json.dumps(value(), allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"{label} cannot be written as JSON: {error}"


def own_tensors(fixture: ModelFixture) -> Iterator[str]:
    """The tensors of an edit are detached and share memory neither with the model nor with the next edit.

    Shared memory lets a write to one tensor change another, and an attached computation graph fills the memory. Use
    .detach().clone().
    """
    lm = fixture.model()
    editor = fixture.editor(lm)
    edit = fixture.edit(editor, lm, REQUEST)
    weights = {name: new for name, new in edit.weights.items() if isinstance(new, Tensor)}
    model_memory = {t.untyped_storage().data_ptr() for t in (*lm.model.parameters(), *lm.model.buffers())}
    for name, new in weights.items():
        if new.requires_grad:
            yield f"weights of '{name}' requires a gradient"
        if new.untyped_storage().data_ptr() in model_memory:
            yield f"weights of '{name}' shares memory with the model"
            return
    before = {name: tensor_digest(new) for name, new in weights.items()}
    fixture.edit(editor, lm, OTHER_REQUEST)
    for name, new in weights.items():
        if tensor_digest(new) != before[name]:
            yield f"weights of '{name}' was overwritten by the editor's next edit"


def half_precision(fixture: ModelFixture) -> Iterator[str]:
    """The edit of a bfloat16 model is in bfloat16.

    Large models run in bfloat16. Compute in float32 where precision matters, and return .to(weight.dtype).
    """
    full = fixture.model()
    if any(application_errors(fixture.edit(fixture.editor(full), full, REQUEST), full)):
        yield Note("not compared: the edit does not fit the float32 model either")
        return
    original = fixture.model()
    lm = LanguageModel(original.model.to(torch.bfloat16), original.tokenizer, original.family, name=original.name)
    yield from application_errors(fixture.edit(fixture.editor(lm), lm, REQUEST), lm)


def reports_its_size(fixture: ModelFixture) -> Iterator[str]:
    """Edit.entries counts the facts that are kept outside of the weights, at most one per request.

    A method of the kind context or memory keeps at least one; memories and recalls count their own. Edit.memory holds
    the tensors of its output functions, detached. Edit.size adds them up, and records contain it.
    """
    lm = fixture.model()
    edit = fixture.edit(fixture.editor(lm), lm, REQUEST)
    least = 1 if fixture.cls.kind in ("context", "memory") else 0
    state: object = edit.state
    if state is not None and not isinstance(state, State):
        return  # reported by the check of the state
    if not isinstance(edit.entries, int) or not least <= edit.size.entries <= 1:
        yield f"entries is {edit.size.entries!r} for one request of a method of the kind {fixture.cls.kind}"
    for name, tensor in edit.memory.items():
        if not isinstance(tensor, Tensor) or tensor.requires_grad:
            yield f"memory of '{name}' is not a detached tensor"
