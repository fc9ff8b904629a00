"""UltraEdit and StableEdit equal the authors' implementations on tiny random models: rows, statistics and updates."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit, EditStack
from knbench.editors.stableedit import StableEdit, StableEditConfig
from knbench.editors.ultraedit import UltraEdit, UltraEditConfig

from tests.references.test_released_code import KINDS, TOLERANCE, error, model, reference

LAYERS = {
    "ultraedit": {"llama": {"gate": (1,), "up": (2,), "down": (2,)}, "gpt2": {"up": (1, 2), "down": (2,)}},
    "stableedit": {"llama": {"gate": (1,), "up": (2,)}, "gpt2": {"up": (1, 2)}},
}
METHODS = {"ultraedit": (UltraEdit, UltraEditConfig), "stableedit": (StableEdit, StableEditConfig)}


def made(name, kind, size):
    settings = reference(name)["settings"]
    cls, config = METHODS[name]
    values = {"learning_rate": settings["lr"], "ridge": settings["rho"], "batch_size": size, "warm_up": 0}
    return cls(config(**values, **LAYERS[name][kind]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_rows_statistics_and_updates_of_every_turn(name, kind):
    document = reference(name)
    expected = document["models"][kind]
    lm = model(kind, expected)
    statistics = {}
    whitened = set()
    with EditStack(lm) as stack:
        for number, turn in enumerate(expected["turns"]):
            # Two requests per mini-batch in turns of four, three in others, as in the reference.
            size = len(turn["mini_batches"][0]["input_ids"])
            editor = made(name, kind, size)
            assert [m.weight.removesuffix(".weight") for m in editor.modules(lm)] == expected["modules"]
            requests = [EditRequest(r["prompt"], "", r["target"], "") for r in turn["requests"]]
            rows = editor.rows(lm, requests)
            for module in expected["modules"]:
                found = rows[f"{module}.weight"]
                assert len(found) == len(turn["inputs"][module])
                for (inputs, gradients), h, g in zip(
                    found, turn["inputs"][module], turn["gradients"][module], strict=True
                ):
                    assert error(inputs, h) < TOLERANCE
                    assert error(gradients, g) < TOLERANCE
            statistics = editor.updated(lm, statistics, rows)
            for shape, values in turn["statistics_after"].items():
                found = statistics["x".join(shape.strip("()").split(", "))]
                assert found.count == values["n"]
                assert error(found.mean, values["mean"]) < TOLERANCE
                assert error(found.squares, values["Vs"]) < TOLERANCE
                if "S_trace" in values:
                    assert float(found.outer.trace()) == pytest.approx(values["S_trace"], rel=TOLERANCE)
            weights = {}
            for module, update in turn["update"].items():
                name_of = f"{module}.weight"
                (edited,) = (m for m in editor.modules(lm) if m.weight == name_of)
                own = statistics["x".join(str(part.shape[1]) for part in rows[name_of][0])]
                # Warm-up turns of the released code are not whitened.
                change = editor.change(own, rows[name_of], whiten=turn["mode"] != "train")
                if editor.whitens and own.can_whiten and turn["mode"] != "train":
                    whitened.add((number, module))
                assert ((number, module) in whitened) == turn["whitened"][module]
                stored = lm.as_stored(edited.layer, change.float(), edited.role)
                # The released code inverts the covariance in float32, in one turn with 52 rows for 48 gradients. Its
                # gap to float64, relative to the largest entry, is part of the reference.
                tolerance = max(TOLERANCE, turn["float64_gap"][module])
                assert error(stored[: len(update), : len(update[0])], update) < tolerance
                assert float(stored.norm()) == pytest.approx(turn["update_norm"][module], rel=tolerance)
                weights[name_of] = lm.parameter(name_of).detach() + stored
            stack.push(Edit(weights=weights))
    assert bool(whitened) == (name == "stableedit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_edits_hands_the_statistics_on(kind):
    """The turns of UltraEdit through edit_next, with the state of the edit before."""
    expected = reference("ultraedit")["models"][kind]
    lm = model(kind, expected)
    earlier = []
    with EditStack(lm) as stack:
        for turn in expected["turns"]:
            editor = made("ultraedit", kind, len(turn["mini_batches"][0]["input_ids"]))
            requests = [EditRequest(r["prompt"], "", r["target"], "") for r in turn["requests"]]
            edit = editor.edit_next(lm, requests, earlier, stack.state)
            for module, update in turn["update"].items():
                name = f"{module}.weight"
                # The difference of the weights has their rounding.
                assert error(edit.weights[name] - lm.parameter(name).detach(), update) < TOLERANCE
            stack.push(edit)
            earlier += requests
    assert torch.is_tensor(edit.state.tensors["32x48/mean"])
