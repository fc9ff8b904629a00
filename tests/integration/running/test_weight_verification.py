"""The verification after an edit reads what the edit touched, and finds changes of everything else."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit
from knbench.benchmark.models import weights
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.models.weights import SAMPLES, WeightMonitor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.files import json_lines
from tests.files import run_folders as run
from tests.workers import Push, measured, towns

SETTINGS = RunSettings(batch_size=32, new_tokens=0, split="all")


@pytest.fixture
def lm():
    return untrained("llama")


@pytest.fixture
def read(monkeypatch):
    """Bytes that are read from parameters, by call."""
    sizes, whole = [], weights.tensor_bytes

    def counted(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return whole(tensor)

    monkeypatch.setattr(weights, "tensor_bytes", counted)
    return sizes


def model_of_8b():
    """A model with the parameters of Llama 3 8B, each of which is one number in memory."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            one = torch.zeros(1, dtype=torch.bfloat16).expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(one, requires_grad=False))
    return model


def test_a_case_on_a_model_of_8b_reads_little_more_than_the_edit(monkeypatch):
    sizes = []

    def counted(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return memoryview(b"")

    monkeypatch.setattr(weights, "tensor_bytes", counted)
    model = model_of_8b()
    monitor = WeightMonitor(model)
    assert sum(sizes) > 16e9
    name = "model.layers.5.mlp.down_proj.weight"
    parameter = model.get_parameter(name)
    original = parameter.data
    sizes.clear()
    parameter.data = torch.ones(1, dtype=torch.bfloat16).expand(parameter.shape)
    parameter.data = original
    assert monitor.changed([name]) == []
    touched = parameter.numel() * 2
    assert touched < sum(sizes) < 1.001 * touched


def test_a_run_reads_all_weights_once_per_unit_and_the_edited_ones_once_per_case(lm, read, tmp_path):
    run(lm, [Push], [towns(16)], tmp_path, SETTINGS)
    whole = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    sampled = sum(min(SAMPLES, p.numel()) * p.element_size() for p in lm.model.parameters())
    edited = lm.parameter(lm.mlp_weight_name(1)).numel() * 4
    # Complete: at the start of the run, with the hash of the weights, after the preparation, and after each unit.
    assert sum(read) <= (3 + 2) * whole + 16 * edited + 40 * sampled


def in_place(parameter):
    parameter[3, 3] += 1.0


def replaced(parameter):
    parameter.data = parameter.data.clone() + 1.0


def behind_torch(parameter):
    parameter.data += 1.0


def one_value_behind_torch(parameter):
    parameter.data[3, 3] += 1.0


@pytest.mark.parametrize("change", [in_place, replaced, behind_torch])
def test_a_quick_check_names_the_parameter_that_was_changed(lm, change):
    monitor = WeightMonitor(lm.model)
    name = lm.mlp_weight_name(0)
    change(lm.parameter(name))
    assert monitor.changed() == monitor.all_changed() == [name]


def test_a_single_value_that_torch_does_not_count_is_found_by_the_complete_check_and_in_the_edit(lm):
    monitor = WeightMonitor(lm.model)
    name = lm.mlp_weight_name(0)
    one_value_behind_torch(lm.parameter(name))
    assert monitor.changed() == []
    assert monitor.changed([name]) == monitor.all_changed() == [name]


def test_values_that_are_written_and_restored_are_no_change(lm):
    monitor = WeightMonitor(lm.model)
    parameter = lm.parameter(lm.mlp_weight_name(0))
    kept = parameter.data
    parameter.data = kept.clone()
    assert monitor.changed() == []
    parameter.add_(1.0)
    assert monitor.changed() == [lm.mlp_weight_name(0)]
    parameter.data = kept
    assert monitor.changed() == []
    assert monitor.fingerprint == lm.fingerprint()


def test_accepted_values_are_expected_by_the_copy_alone(lm):
    monitor = WeightMonitor(lm.model)
    sequence, name = monitor.copy(), lm.mlp_weight_name(0)
    kept = lm.parameter(name).data
    lm.parameter(name).data = kept + 1.0
    sequence.accept([name])
    assert sequence.changed() == sequence.all_changed() == []
    assert sequence.fingerprint == lm.fingerprint() != monitor.fingerprint
    lm.parameter(name).data = kept
    assert monitor.all_changed() == monitor.changed() == []


class ChangesOneValue(Push):
    """Changes a value of another matrix on one case, in a way that the check after a case does not see."""

    name, active = "sly", True

    def edit(self, lm, requests):
        if requests[0].subject == "Mexico 8" and self.active:
            one_value_behind_torch(lm.parameter(lm.mlp_weight_name(0)))
        return super().edit(lm, requests)


def test_records_of_a_unit_whose_model_was_found_changed_are_withdrawn(lm, tmp_path, monkeypatch):
    with pytest.raises(KnbenchError, match="'sly' left the model's weights changed after sly on towns, cases 9 to 16"):
        run(lm, [ChangesOneValue], [towns(16)], tmp_path / "a", SETTINGS)
    folder = tmp_path / "a/sly/towns"
    assert len(json_lines(folder / "records.jsonl")) == 8  # the first unit, which was checked completely
    monkeypatch.setattr(ChangesOneValue, "active", False)
    (whole,) = run(untrained("llama"), [ChangesOneValue], [towns(16)], tmp_path / "b", SETTINGS)
    run(untrained("llama"), [ChangesOneValue], [towns(16)], tmp_path / "a", SETTINGS)
    assert measured(folder) == measured(whole)


def test_the_cached_weight_hash_follows_the_weights(lm, read):
    first = lm.weight_hash(cached=True)
    read.clear()
    assert lm.weight_hash(cached=True) == first
    assert sum(read) < 64e3
    with_edit = Edit(weights={lm.mlp_weight_name(0): lm.parameter(lm.mlp_weight_name(0)) + 1})
    with with_edit.applied(lm):
        assert lm.weight_hash(cached=True) == lm.weight_hash() != first
    assert lm.weight_hash(cached=True) == lm.weight_hash() == first
