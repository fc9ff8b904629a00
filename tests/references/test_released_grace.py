"""GRACE equals the authors' implementation on tiny random models: keys, values, radii, losses and look-ups."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit
from knbench.editors.grace import Grace, GraceConfig

from tests.references.test_released_code import KINDS, TOLERANCE, error, model, reference


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_edits_and_look_ups(kind, number):
    expected = reference("grace")["models"][kind]
    run = expected["runs"][number]
    lm = model(kind, expected)
    editor = Grace(
        GraceConfig(
            layer=2,
            radius=run["eps0"],
            start=run["init"],
            steps=run["n_iter"],
            learning_rate=run["edit_lr"],
            replace=run["replacement"].removeprefix("replace_"),
            expand=run["eps_expand"],
        )
    )
    book, module = None, expected["module"]
    for step in run["steps"]:
        request = EditRequest(step["prompt"], "", step["target"], "")
        start = torch.tensor(step["start_value"]) if step["happened"] in ("add", "split") else None
        book, happened, losses = editor.added(lm, request, book, module, start)
        assert (happened, book.entries) == (step["happened"], step["n_keys"])
        assert losses == pytest.approx(step["losses"], rel=TOLERANCE)
        assert book.tensors["radii"].tolist() == pytest.approx(step["radii"], rel=TOLERANCE)
        assert error(book.tensors["keys"], step["keys"]) < TOLERANCE
        assert error(book.tensors["values"], step["values"]) < TOLERANCE
    with Edit(memories={module: book}).applied(lm):
        for look_up in run["lookups"]:
            batch = lm.pad([look_up["ids"]])
            with torch.no_grad(), lm.reading(batch, [len(look_up["ids"])]) as reading:
                logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits[0, -1]
            assert bool(reading.notes[f"grace {module}"] >= 0) == look_up["hit"]
            assert error(logits[:32], look_up["last_logits_0_32"]) < TOLERANCE
            assert int(logits.argmax()) == look_up["argmax"]
