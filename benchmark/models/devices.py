"""The choice of a device and of a batch size for a machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from ..core.errors import KnbenchError

AUTO = "auto"
DEVICE_HELP = "Torch device: cpu, cuda, cuda:1, mps. 'auto' is a GPU if there is one, and otherwise the CPU."
CPU_BATCH = 32
"""Sequences per forward pass on a CPU, where a larger batch is not faster."""
MAX_BATCH = 256
_BYTES_PER_SEQUENCE = 128 << 20
"""Memory that a sequence of a probe may take on a GPU: the logits of its positions and its activations."""
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files of the drivers of NVIDIA and AMD, and of the GPU of Windows in its Linux."""


def resolve_device(device: str = AUTO) -> str:
    """Return a torch device; ``auto`` becomes ``cuda``, ``mps`` or ``cpu``, the first that is available.

    A Linux machine without the driver of a GPU has the device ``cpu``, which is known without an import of torch.

    The data type of the weights does not depend on the device: float32 is the default everywhere, because an update of
    a weight can be smaller than the spacing of bfloat16, and because results on different devices stay comparable.
    """
    if device != AUTO:
        return device
    if sys.platform == "linux" and not any(Path(file).exists() for file in _GPU_FILES):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> str:
    """Return a torch device that is available, before models are loaded; see :func:`resolve_device` for ``auto``.

    Raises:
        KnbenchError: the device is not available.
    """
    import torch

    device = resolve_device(device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise KnbenchError(f"device '{device}' is not available: {str(error).splitlines()[0]}") from None
    return device


def resolve_batch_size(batch_size: int | Literal["auto"], device: str) -> int:
    """Return the number of sequences per forward pass.

    ``auto`` is :data:`CPU_BATCH`, or on a GPU the largest power of two that its free memory allows. A batch that does
    not fit nevertheless is halved when it is measured. Numbers depend on the batch size by rounding only.

    Args:
        batch_size: a number or ``auto``.
        device: a torch device that is resolved.
    """
    if isinstance(batch_size, int):
        return batch_size
    if not device.startswith("cuda"):
        return CPU_BATCH
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return min(MAX_BATCH, max(CPU_BATCH, 1 << (free // _BYTES_PER_SEQUENCE).bit_length() - 1))
