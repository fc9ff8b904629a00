"""Float64 on a device that lacks it: every conversion goes through ``in_float64``, which moves the tensor first."""

from __future__ import annotations

import dataclasses
import sys
import traceback

import pytest
import torch
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.editing import build_editor, editor_class
from knbench.benchmark.models import precision
from knbench.benchmark.models.precision import in_float64
from knbench.editors.shared import covariance
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.conftest import make_lm
from tests.workers import towns

SMALL = {"corpus_tokens": "256", "corpus_length": "16", "steps": "2", "mom2_adjustment": "true"}
EDITORS = ("rome", "r-rome", "memit", "emmet", "alphaedit", "memit-seq", "blue", "encore")


class OnMps:
    """Stands for a tensor on MPS: it cannot be converted to float64, and can be moved to the CPU."""

    device = torch.device("mps", 0)

    def __init__(self, values):
        self.values = values

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def to(self, device):
        assert device == torch.device("cpu")
        return self.values


def test_a_tensor_is_moved_before_it_is_converted():
    values = torch.tensor([1 / 3, 1e-30])
    with pytest.raises(TypeError, match="float64"):
        OnMps(values).double()
    converted = in_float64(OnMps(values))
    assert (converted.dtype, converted.device.type) == (torch.float64, "cpu")
    assert converted.tolist() == values.tolist()


class Conversions(TorchDispatchMode):
    """Collects where float32 becomes float64 other than in ``in_float64``. On MPS each of these raises an exception."""

    def __init__(self):
        super().__init__()
        self.others, self.seen = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.seen += 1
            floats = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.is_floating_point()]
            if any(x.dtype != torch.float64 for x in floats) and not self._in_float64():
                self.others.append("".join(traceback.format_stack(limit=6)))
        return result

    @staticmethod
    def _in_float64():
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code is in_float64.__code__:
                return True
            frame = frame.f_back
        return False


def edit_with(name, lm):
    """Prepare an editor and compute an edit, of two requests if the method edits several together."""
    cls = editor_class(name)
    fields = {field.name for field in dataclasses.fields(cls.Config)}
    editor, _ = build_editor(cls, lm, {key: value for key, value in SMALL.items() if key in fields})
    requests = [case.request for case in towns(2).cases]
    editor.prepare(lm, Reporter())
    return editor.edit(lm, requests[:1] if name in ("rome", "r-rome") else requests)


@pytest.mark.parametrize("name", EDITORS)
def test_editors_convert_to_float64_in_one_way(name):
    conversions = Conversions()
    with conversions:
        edit = edit_with(name, make_lm("llama"))
    assert conversions.seen > 0
    assert conversions.others == []
    assert {weight.dtype for weight in edit.weights.values()} == {torch.float32}


def test_the_collector_finds_another_conversion():
    conversions = Conversions()
    with conversions:
        _ = torch.ones(2).double() + in_float64(torch.ones(2))
    assert len(conversions.others) == 1


class NoFloat64(TorchDispatchMode):
    """Lets a GPU have no float64, as MPS has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.device.type == "cuda":
                raise TypeError(f"{func} made a float64 tensor on a device without float64")
        return result


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, whose float64 is switched off")
@pytest.mark.parametrize("name", EDITORS)
def test_editors_give_the_same_edit_on_a_device_without_float64(name, monkeypatch):
    def on_gpu():
        lm = make_lm("llama")
        lm.model.to("cuda")
        return lm

    wanted = edit_with(name, on_gpu()).weights

    def without(device):
        return torch.device("cpu") if device.type == "cuda" else device

    for module in (precision, covariance):
        monkeypatch.setattr(module, "float64_device", without)
    with pytest.raises(TypeError, match="without float64"), NoFloat64():
        torch.ones(2, device="cuda").double()
    with NoFloat64():
        found = edit_with(name, on_gpu()).weights
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        assert value.device.type == "cuda"
        torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-5)
