"""The free memory and the pending work of a device."""

from __future__ import annotations

import torch


def free_bytes(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on a device: of the GPU, or else of the main memory.

    Memory that torch has reserved on a GPU and does not use is free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    import psutil

    return int(psutil.virtual_memory().available)


def synchronise(device: torch.device) -> None:
    """Wait for the pending work of a GPU, without which a time ends before the work does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
