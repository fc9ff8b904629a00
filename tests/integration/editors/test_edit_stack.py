"""Edit and EditStack: edits are applied, and reverted bit for bit."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.editing import Edit, EditSize, EditStack, State

NAME = "model.layers.1.mlp.down_proj.weight"


def test_weights_are_restored_bit_for_bit_after_an_exception(lm):
    before = lm.weight_hash()
    new = torch.randn_like(lm.parameter(NAME))

    def interrupted():
        with Edit(weights={NAME: new}).applied(lm):
            assert torch.equal(lm.parameter(NAME), new)
            lm.parameter(NAME).data.add_(1.0)  # a second change in the block is reverted with the edit
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lm.weight_hash() == before


def test_tied_weights_stay_tied(lm):
    name = "model.embed_tokens.weight"
    new = torch.zeros_like(lm.parameter(name))
    with Edit(weights={name: new}).applied(lm):
        assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight
        assert (lm.model(input_ids=torch.tensor([[5, 6]])).logits == 0).all()
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight


def test_hooks_and_prefix_are_removed(lm):
    ids = torch.tensor([[5, 6, 7]])
    before = lm.model(input_ids=ids).logits
    edit = Edit(outputs={"model.layers.1.mlp": lambda v: v * 0}, prefix="Note. ")
    with edit.applied(lm):
        assert lm.prompt_prefix == "Note. "
        assert not torch.allclose(lm.model(input_ids=ids).logits, before)
    assert lm.prompt_prefix == ""
    torch.testing.assert_close(lm.model(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit(weights={NAME: torch.zeros(3, 3)}), r"has shape \(3, 3\).*the parameter has shape \(32, 48\)"),
        (Edit(weights={NAME: torch.zeros(32, 48, dtype=torch.float64)}), "float64"),
        (Edit(weights={NAME: torch.full((32, 48), float("nan"))}), "NaN or infinite"),
        (Edit(weights={"model.layers.9.mlp": torch.zeros(1)}), "has no parameter"),
        (Edit(outputs={"model.layers.9.mlp": lambda v: v}), "has no module 'model.layers.9.mlp'"),
    ],
)
def test_an_invalid_edit_is_rejected_and_changes_nothing(lm, edit, message):
    before = lm.weight_hash()
    valid = {"model.layers.0.mlp.down_proj.weight": torch.zeros(32, 48)}
    edit = Edit(weights={**valid, **edit.weights}, outputs=edit.outputs)
    with pytest.raises(KnbenchError, match=message), edit.applied(lm):
        pass
    assert lm.weight_hash() == before


def test_pop_reverts_the_last_push_only_once(lm):
    before = lm.weight_hash()
    one, two = (Edit(weights={NAME: torch.full_like(lm.parameter(NAME), value)}) for value in (1.0, 2.0))
    with EditStack(lm) as stack:
        with pytest.raises(RuntimeError, match="push an edit"):
            stack.pop()
        stack.push(one)
        stack.push(two)
        stack.pop()
        assert (lm.parameter(NAME) == 1).all()
        with pytest.raises(RuntimeError, match="reverts only the last push"):
            stack.pop()
        assert (lm.parameter(NAME) == 1).all()
    assert lm.weight_hash() == before


def test_the_size_counts_shared_memory_once():
    tensor = torch.zeros(3, 4)  # 48 bytes
    edit = Edit(
        weights={"a": torch.zeros(10), "b": torch.zeros(6, dtype=torch.bfloat16)},
        prefix="é. ",
        memory={"keys": tensor, "again": tensor, "other": torch.zeros(2, dtype=torch.float64)},
        state=State({"sum": torch.zeros(5)}, {"edits": 1}),
        entries=2,
    )
    assert edit.size == EditSize(weights=40 + 12, memory=48 + 16 + 4, state=20, entries=2)
    assert Edit().size == EditSize(0, 0, 0, 0)
