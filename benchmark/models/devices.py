"""The choice of a device for a model."""

from __future__ import annotations

AUTO = "auto"
DEVICE_HELP = "Torch device: cpu, cuda, cuda:1, mps. 'auto' is a GPU if there is one, and otherwise the CPU."


def resolve_device(device: str = AUTO) -> str:
    """Return a torch device; ``auto`` becomes ``cuda``, ``mps`` or ``cpu``, the first that is available.

    The data type of the weights does not depend on the device: float32 is the default everywhere, because an update of
    a weight can be smaller than the spacing of bfloat16, and because results on different devices stay comparable.
    """
    if device != AUTO:
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
