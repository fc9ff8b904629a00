"""Tests. OpenMP's threads wait passively in them, because several processes share the cores."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch, which is imported later, reads it
