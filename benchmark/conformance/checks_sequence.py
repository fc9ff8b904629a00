"""Checks of sequential edits: the state that each edit hands to the next."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..editing import Edit, Editor, State
from ..models.language_model import LanguageModel
from ..running.attempts import state_error
from .edits import application_errors, fingerprint, fingerprint_differences
from .fixtures import OTHER_REQUEST, REQUEST, ModelFixture
from .harness import Note
from .snapshots import Snapshot, join_names, tensor_digest


def first_of_a_sequence(fixture: ModelFixture) -> Iterator[str]:
    """edit_next() without earlier edits returns exactly the edit of edit().

    The first edit of a sequential run is a single edit. edit_next takes lm, requests, earlier and state.
    """
    if not _overrides_edit_next(fixture):
        return
    edits = []
    for sequential in (False, True):
        lm = fixture.model()
        editor = fixture.editor(lm)
        if sequential:
            edits.append(fixture.edit_next(editor, lm, REQUEST, (), None))
        else:
            edits.append(fixture.edit(editor, lm, REQUEST, case="next"))
    expected, actual = (fingerprint(edit, fixture.model()) for edit in edits)
    if actual != expected:
        yield f"edit_next() of the first request differs from edit() in {fingerprint_differences(expected, actual)}"


def state_is_immutable(fixture: ModelFixture) -> Iterator[str]:
    """Edit.state is a State or None; the next edit leaves it, and the edited model, unchanged.

    Its tensors are detached and share no memory with the model, and its settings are JSON-serialisable. Two calls with
    one state return the same edit. Make a new State with State(tensors={**state.tensors, name: new}). The tensors of
    lm.unedited() must not be changed either.
    """
    lm = fixture.model()
    editor = fixture.editor(lm)
    first = fixture.edit_next(editor, lm, REQUEST, (), None)
    if problem := state_error(first.state):
        yield f"the {problem}"
        return
    if not _overrides_edit_next(fixture):
        return
    if reason := _reason_not_comparable(first, fixture):
        yield Note(reason)
        return
    model_memory = {t.untyped_storage().data_ptr() for t in (*lm.model.parameters(), *lm.model.buffers())}
    for name, tensor in _tensors(first.state).items():
        if tensor.untyped_storage().data_ptr() in model_memory:
            yield f"state.tensors['{name}'] shares memory with the model"
    digest = None if first.state is None else first.state.digest()
    with first.applied(lm):
        before, unedited = Snapshot(lm), {name: tensor_digest(lm.unedited(name)) for name in first.weights}
        edits = [fixture.edit_next(editor, lm, OTHER_REQUEST, [REQUEST], first.state) for _ in range(2)]
        if changed := before.differences(Snapshot(lm)):
            yield f"edit_next() left changed: {join_names(changed)}"
        if changed := [name for name in unedited if tensor_digest(lm.unedited(name)) != unedited[name]]:
            yield f"edit_next() changed the unedited weights: {join_names(changed)}"
            return
        prints = [fingerprint(edit, lm) for edit in edits]
    if first.state is not None and first.state.digest() != digest:
        yield "the second edit changed the state of the first one"
    elif prints[0] != prints[1]:
        yield f"two calls with one state differ in {fingerprint_differences(*prints)}"


def a_reverted_edit_leaves_no_trace(fixture: ModelFixture) -> Iterator[str]:
    """An edit that is taken back has no effect on the next one.

    The runner takes back an edit after which the model gives no probabilities. It also continues interrupted runs with
    a new editor. Keep what later edits need in Edit.state, not in attributes of the editor.
    """
    if not _overrides_edit_next(fixture):
        return
    prints = []
    for reverted in (False, True):
        lm = fixture.model()
        editor = fixture.editor(lm)
        first = fixture.edit_next(editor, lm, REQUEST, (), None)
        if reason := _reason_not_comparable(first, fixture):
            yield Note(reason)
            return
        with first.applied(lm):
            if reverted:
                second = fixture.edit_next(editor, lm, OTHER_REQUEST, [REQUEST], first.state)
                if not any(application_errors(second, lm)):
                    with second.applied(lm):
                        pass
            third = fixture.edit_next(editor, lm, OTHER_REQUEST, [REQUEST], first.state)
            prints.append(fingerprint(third, lm))
    if prints[0] != prints[1]:
        yield f"after an edit that was taken back, the next differs in {fingerprint_differences(*prints)}"


def _overrides_edit_next(fixture: ModelFixture) -> bool:
    """Whether the class has its own ``edit_next()``. The default calls ``edit()``, which other checks test."""
    return fixture.cls.edit_next is not Editor.edit_next


def _reason_not_comparable(edit: Edit, fixture: ModelFixture) -> str | None:
    """Return why sequential edits cannot be compared, or None. Other checks report the reason as a defect."""
    lm: LanguageModel = fixture.model()
    if any(application_errors(edit, lm)):
        return "sequential edits are not compared: the edit does not fit the model"
    if state_error(edit.state):
        return "sequential edits are not compared: the state cannot be used"
    if fixture.state_left_changed:
        return "sequential edits are not compared: edit() leaves the model changed"
    return None


def _tensors(state: State | None) -> dict[str, Tensor]:
    return {} if state is None else dict(state.tensors)
