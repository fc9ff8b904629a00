"""Checks that an edit depends on the seed, the request and the model only."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .edits import fingerprint, fingerprint_differences
from .fixtures import OTHER_REQUEST, REQUEST, ModelFixture
from .snapshots import preserved_weights


def deterministic(fixture: ModelFixture) -> Iterator[str]:
    """Two new editors with one seed return the same edit bit for bit, and so does an editor after another edit.

    The result must not depend on earlier random draws, because a resumed run must give the same numbers. The runner
    seeds torch for each case. Draw from torch's generator or derive seeds from self.seed; do not use the generators of
    Python or NumPy.
    """
    fingerprints = []
    for seed in (1, 2):
        fixture.unmanaged_seed = seed
        torch.manual_seed(seed)
        lm = fixture.model()
        editor = fixture.editor(lm)
        with preserved_weights(lm):
            edit = fixture.edit(editor, lm, REQUEST)
            fingerprints.append(fingerprint(edit, lm))
    if fingerprints[0] != fingerprints[1]:
        yield f"two new editors with one seed differ in {fingerprint_differences(*fingerprints)}"
        return
    with preserved_weights(lm):
        fixture.edit(editor, lm, OTHER_REQUEST, case="other")
    with preserved_weights(lm):
        repeated = fingerprint(fixture.edit(editor, lm, REQUEST), lm)
    if repeated != fingerprints[1]:
        differences = fingerprint_differences(fingerprints[1], repeated)
        yield f"after another edit, the same request gives another result in {differences}"


def no_state_between_models(fixture: ModelFixture) -> Iterator[str]:
    """An editor that has edited one model edits the next as a new editor does.

    Key state that is kept between edits by model, preferably in a WeakKeyDictionary of LanguageModel. Layer numbers
    and parameter names are the same in many models.
    """
    fixture.global_state.restore()
    lm = fixture.model(seed=1)
    expected = fingerprint(fixture.edit(fixture.editor(lm), lm, REQUEST), lm)
    fixture.global_state.restore()
    first, second = fixture.model(seed=0), fixture.model(seed=1)
    editor = fixture.editor(first)
    fixture.edit(editor, first, REQUEST)
    fixture.prepare(editor, second)
    actual = fingerprint(fixture.edit(editor, second, REQUEST), second)
    if actual != expected:
        yield f"after an edit of another model, the edit differs in {fingerprint_differences(expected, actual)}"
