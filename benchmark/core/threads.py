"""How the threads of torch wait for each other."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"
"""Environment variable of OpenMP, which is read when torch is imported."""


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spinning, in this process and those that it starts.

    By default a thread that waits for another one keeps its core busy. Beside other processes it then takes the core
    from the thread that it waits for. The call has no effect on a process that has imported torch, and keeps a policy
    that the user has set.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
