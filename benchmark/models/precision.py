"""Sums in float64 on devices that lack it. Apple's MPS computes in float32 at most."""

from __future__ import annotations

import torch
from torch import Tensor


def float64_device(device: torch.device) -> torch.device:
    """Return the device itself, or the CPU if the device has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the device that :func:`float64_device` returns for its device."""
    return tensor.to(float64_device(tensor.device)).double()
