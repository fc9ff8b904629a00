"""Sums in float64 on devices with and without it."""

from __future__ import annotations

import torch
from knbench.benchmark.models.precision import float64_device, in_float64


def test_a_device_without_float64_computes_such_sums_on_the_cpu():
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("mps", 0)) == torch.device("cpu")


def test_other_devices_compute_such_sums_themselves():
    for device in (torch.device("cpu"), torch.device("cuda", 1)):
        assert float64_device(device) == device


def test_values_are_not_changed():
    values = torch.tensor([1 / 3, 1e-30], dtype=torch.float32)
    converted = in_float64(values)
    assert converted.dtype == torch.float64
    assert converted.tolist() == values.tolist()
