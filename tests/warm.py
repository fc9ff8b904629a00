"""Importing this makes a run in miniature, so that a process forked off afterwards has nothing left to import.

For the tests that start many processes: the libraries import much of themselves when it is first used.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from knbench.benchmark.core.settings import RunSettings
from knbench.editors.rome import Rome

from tests.workers import run_alone, spec

torch.set_num_threads(1)  # a process with more than one cannot be forked safely
with tempfile.TemporaryDirectory() as folder:
    run_alone(spec(RunSettings(editor_args={"rome": {"steps": "1"}}), Rome, cases=2), Path(folder))
