"""Decides which errors are failed edits, and describes them in records.

A failed edit is one of: an exception of the editor's own code, out of memory, and probabilities or weights that are not
finite. Any other error is one of the harness, of the model or of the machine, and stops the run.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from ..core.errors import KnbenchError, first_line
from ..core.local_paths import without_folders_in_text
from ..core.records import Failure, Phase
from ..editing import NonFiniteEditError, OutputFunctionError

CONTROL = "none"
"""Name of the editor without an edit."""
MAX_MESSAGE_LENGTH = 500
MAX_FRAMES = 20
"""Number of innermost stack frames in the traceback of a failure."""

MEASURING_FAILURES = (
    FloatingPointError,
    torch.OutOfMemoryError,
    MemoryError,
    NonFiniteEditError,
    OutputFunctionError,
)
"""Errors of measuring an edited model that the edit causes."""


def failure_of(phase: Phase, error: BaseException) -> Failure:
    """Return the record of an error.

    The message keeps file names and drops their folders. The traceback has one ``file:line in function`` per frame.
    """
    if isinstance(error, OutputFunctionError) and error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames]
    return Failure(
        phase=phase,
        type=type(error).__name__,
        message=without_folders_in_text(first_line(error))[:MAX_MESSAGE_LENGTH],
        traceback="\n".join(lines) or None,
    )


def failed_edit(editor: str, phase: Phase, error: BaseException) -> Failure:
    """Return the record of an error that an edit caused.

    Raises:
        KnbenchError: the editor is the control, which changes nothing and therefore cannot fail.
    """
    failure = failure_of(phase, error)
    if editor == CONTROL:
        raise KnbenchError(
            f"the control '{CONTROL}' failed ({failure.type}: {failure.message}); it changes nothing, so this is an "
            "error of the model, the machine or KNBench, for example too little memory"
        ) from error
    return failure
