"""What a run's process and its workers send each other. All of it can be pickled."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import KnbenchError, first_line
from ..plan import CasesStarted, LinesWithdrawn, OutputLine, Plan, WorkItem


@dataclass(frozen=True)
class MakePlan:
    """The command to plan the run, with entries for the manifest's environment."""

    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its model; ``pid`` is its process id."""

    pid: int


@dataclass(frozen=True)
class Progress:
    """The worker starts a stage."""

    stage: str


@dataclass(frozen=True)
class Done:
    """The command is finished."""


@dataclass(frozen=True)
class Failed:
    """No worker can execute the command, because of an error and its cause."""

    error: Exception
    cause: Exception


@dataclass(frozen=True)
class Lost:
    """The worker's process ended, and the command with it."""

    reason: str


Command = MakePlan | WorkItem | None
"""None loads the model and does nothing else."""
Message = Ready | Progress | CasesStarted | OutputLine | LinesWithdrawn | Plan | Done | Failed | Lost
LAST = (Done, Failed, Lost)
"""Kinds of messages that end a command."""


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, which ``--debug`` prints. A traceback itself cannot be pickled."""


def failed(error: BaseException) -> Failed:
    """Return the message of an error.

    Errors that the user can fix, errors of files and missing modules reach the user as themselves, and a missing module
    also as a cause. They are built anew, because some libraries derive errors that cannot be unpickled. Any other error
    is a bug, and its message contains the traceback.
    """
    text = "in a worker:\n" + "".join(traceback.format_exception(error))
    missing: BaseException | None = error
    while missing is not None and not isinstance(missing, ModuleNotFoundError):
        missing = missing.__cause__
    cause = ModuleNotFoundError(str(missing), name=missing.name) if missing else WorkerTraceback(text)
    match error:
        case ModuleNotFoundError():
            return Failed(cause, WorkerTraceback(text))
        case OSError():
            parts = (error.errno, error.strerror, error.filename) if error.errno else (first_line(error),)
            return Failed(OSError(*parts), cause)
        case KnbenchError():
            return Failed(KnbenchError(str(error)), cause)
        case SystemExit():
            return Failed(KnbenchError(f"a worker was ended by SystemExit: {first_line(error)}"), cause)
    return Failed(RuntimeError(f"{error}\n\n{text}"), cause)
