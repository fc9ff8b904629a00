"""Describes the environment of a run: package versions, hardware and peak memory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("knbench", "torch", "transformers", "tokenizers", "numpy")
"""Distributions whose versions a result records."""


def describe_environment(device: str, command: str | None = None) -> dict[str, Any]:
    """Return versions and hardware as JSON values, without the name of a user or host.

    Args:
        device: the torch device of the run.
        command: the command line, which is included if given.

    Returns:
        The versions of Python and :data:`PACKAGES`, the platform, the processor, its logical cores, torch's threads,
        the main memory in GiB (``memory_gb``), and the name of the GPU or else the device.
    """
    import psutil
    import torch

    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        **({"command": command} if command else {}),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": accelerator or device,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class PeakMemory:
    """Measures the peak memory since the object was created.

    On a GPU this is the memory that torch allocated on the device. On a CPU it is the resident set size of the process.
    Linux lets a process reset its high-water mark; on systems where this is not possible, the peak since the process
    started is returned.

    Example: ``peak = PeakMemory("cpu"); ...; peak.megabytes()``

    Args:
        device: the torch device.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self._device = device
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def megabytes(self) -> float:
        """Return the peak in MiB (2**20 bytes)."""
        if self._cuda:
            import torch

            return float(torch.cuda.max_memory_allocated(self._device) / 2**20)
        try:
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) / 1024
        except OSError:
            pass
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
