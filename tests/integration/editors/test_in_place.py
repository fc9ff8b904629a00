"""InPlaceEditor: the example of the docs runs a function in the style of EasyEdit, and the model is restored."""

from __future__ import annotations

import random
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from knbench.benchmark.conformance.checks import check_editor
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import InPlaceEditor, NoConfig, build_editor, easyedit_request, rome_request
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.running.model_state import ModelState

DOCS = Path(__file__).parents[3] / "docs" / "architecture.md"
REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")


class HyperParams:
    """Stands for a class of hyper-parameters that reads a file."""

    layers: list

    @classmethod
    def from_hparams(cls, path):
        assert path == "rome.yaml"
        return cls()


def apply_to_model(model, tok, requests, hparams, copy=False, return_orig_weights=False, **kwargs):
    """Train one matrix in place, and leave behind what such functions leave behind.

    It sets the padding side, the training mode, ``requires_grad`` and gradients, keeps a hook, and draws from NumPy.
    """
    tok.padding_side = "left"
    model.train()
    model.config.use_cache = False
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    block = layers[hparams.layers[0]]
    weight = (block.mlp.down_proj if hasattr(block.mlp, "down_proj") else block.mlp.c_proj).weight
    block.register_forward_hook(lambda *_: None)
    weight.requires_grad = True
    for request in requests:
        text = request["prompt"].format(request["subject"])
        ids = torch.tensor([tok(f"{text} {request['target_new']}").input_ids])
        model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        weight[...] -= float(0.1 + 0.01 * np.random.rand() + 0.01 * random.random()) * weight.grad
    return model, {}


def example():
    """Return the class of the documentation's example, and the number of its lines."""
    (code,) = re.findall(r"```python\n(# my_package/easyedit_rome.py\n.*?)```", DOCS.read_text(), flags=re.DOTALL)
    package = types.ModuleType("easyeditor.models.rome")
    package.ROMEHyperParams, package.apply_rome_to_model = HyperParams, apply_to_model
    stubs = {"easyeditor": types.ModuleType("easyeditor"), "easyeditor.models": types.ModuleType("easyeditor.models")}
    module = types.ModuleType("easyedit_rome_example")
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in {**stubs, "easyeditor.models.rome": package, module.__name__: module}.items():
            patch.setitem(sys.modules, name, stub)
        exec(code, vars(module))
    sys.modules[module.__name__] = module
    return module.EasyEditRome, sum(1 for line in code.splitlines() if line.strip() and not line.startswith("#"))


def test_the_example_of_the_documentation_is_short_and_keeps_the_rules():
    cls, lines = example()
    assert lines < 25
    # The function computes no mask and reads no subject span; the models with a causal head suffice.
    failed = {r.name: r.message for r in check_editor(type("Causal", (cls,), {"causal_only": True})) if not r.ok}
    assert failed == {}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_edit_equals_the_change_of_the_function(kind):
    cls, _ = example()
    lm, other = untrained(kind), untrained(kind)
    torch.manual_seed(3)
    editor, _ = build_editor(cls, lm)
    before, state = lm.weight_hash(), ModelState(lm)
    edit = editor.edit(lm, [REQUEST])
    assert lm.weight_hash() == before
    assert state.differences() == []
    # The same function on another copy of the model, with the same random numbers.
    torch.manual_seed(3)
    seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)
    hparams = HyperParams()
    hparams.layers = [1]
    apply_to_model(other.model, other.tokenizer, [easyedit_request(REQUEST)], hparams)
    assert set(edit.weights) == {lm.mlp_weight_name(1)}
    assert torch.equal(edit.weights[lm.mlp_weight_name(1)], other.parameter(lm.mlp_weight_name(1)).detach())


def test_the_parts_of_a_request():
    ours, theirs = easyedit_request(REQUEST), rome_request(REQUEST)
    assert ours["prompt"] == theirs["prompt"] == "The capital of {} is"
    assert (ours["target_new"], ours["ground_truth"]) == ("Rome", "Ottawa")
    assert theirs["target_new"] == {"str": "Rome"}
    other = rome_request(EditRequest("The capital of {} is", "Canada", "Paris", "Ottawa"))
    assert ours["case_id"] == theirs["case_id"] != other["case_id"]


class InPlace(InPlaceEditor[NoConfig]):
    name, summary, Config = "in-place", "for tests", NoConfig

    def weight(self, lm, layer=1):
        return lm.parameter(lm.mlp_weight_name(layer))


def edited(cls, lm):
    return build_editor(cls, lm)[0].edit(lm, [REQUEST])


def test_only_the_named_parameters_are_copied_and_the_copies_become_the_edit():
    lm = untrained("llama")
    names = [lm.mlp_weight_name(1), lm.mlp_weight_name(2)]
    before = {name: p.data_ptr() for name, p in lm.model.named_parameters()}
    during = {}

    class Names(InPlace):
        def touches(self, lm):
            return names

        def apply(self, lm, requests):
            during.update({name: p.data_ptr() for name, p in lm.model.named_parameters()})
            for layer in (1, 2):
                self.weight(lm, layer).data.mul_(2)

    edit = edited(Names, lm)
    assert {name for name in before if during[name] != before[name]} == set(names)
    assert {name: tensor.data_ptr() for name, tensor in edit.weights.items()} == {name: during[name] for name in names}
    assert {name: p.data_ptr() for name, p in lm.model.named_parameters()} == before


@pytest.mark.parametrize("how", ["in place", "data", "parameter"])
def test_changes_are_found_without_names_however_they_are_made(how):
    lm = untrained("llama")
    before = lm.weight_hash()

    class Doubles(InPlace):
        def apply(self, lm, requests):
            weight = self.weight(lm)
            if how == "in place":
                with torch.no_grad():
                    weight *= 2
            elif how == "data":
                weight.data = weight.data * 2
            else:
                lm.mlp_out(1).weight = torch.nn.Parameter(weight.detach() * 2)

    edit = edited(Doubles, lm)
    assert set(edit.weights) == {lm.mlp_weight_name(1)}
    assert torch.equal(edit.weights[lm.mlp_weight_name(1)], 2 * lm.parameter(lm.mlp_weight_name(1)).detach())
    assert lm.weight_hash() == before


def test_the_model_is_restored_after_an_error():
    lm = untrained("llama")
    before, state = lm.weight_hash(), ModelState(lm)

    class Fails(InPlace):
        def apply(self, lm, requests):
            lm.model.train()
            self.weight(lm).data.zero_()
            lm.block(0).extra = torch.nn.Linear(2, 2)
            next(lm.model.buffers()).zero_()
            lm.tokenizer.padding_side = "left"
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        edited(Fails, lm)
    assert lm.weight_hash() == before
    assert state.differences() == []


def test_another_model_a_replaced_module_and_an_unnamed_parameter_are_refused():
    class Copies(InPlace):
        def apply(self, lm, requests):
            return untrained("llama").model, {}

    class Wraps(InPlace):
        def apply(self, lm, requests):
            lm.mlp(1).down_proj = torch.nn.Sequential(lm.mlp(1).down_proj)

    class Unnamed(InPlace):
        def touches(self, lm):
            return [lm.mlp_weight_name(2)]

        def apply(self, lm, requests):
            self.weight(lm).data.zero_()

    for cls, message in (
        (Copies, r"returned another model; .*copy=False"),
        (Wraps, r"replaced modules of the model \(model.layers.1.mlp.down_proj.0.weight, "),
        (Unnamed, r"the method changed model.layers.1.mlp.down_proj.weight, which touches\(\) does not name"),
    ):
        lm = untrained("llama")
        before = lm.weight_hash()
        with pytest.raises(KnbenchError, match=message):
            edited(cls, lm)
        assert (lm.weight_hash() == before) is (cls is not Unnamed)
