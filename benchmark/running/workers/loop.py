"""A worker's own side: it loads the model once, and answers one question after the other."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...core.errors import KnbenchError
from ...core.progress import Reporter
from ..evaluator import Evaluator, RunSpec, WorkerDevice
from .messages import Command, Doing, Done, Emit, Failed, Ready


class WorkerLoop:
    """Lays out a workbench when it is first asked for something, and keeps it."""

    def __init__(self, spec: RunSpec, post: WorkerDevice) -> None:
        self._recipe, self._post = spec, post
        self._bench: Evaluator | None = None

    def answer(self, question: Command, emit: Emit) -> None:
        """Answer a question; the last thing told is :class:`Done` or :class:`Failed`."""
        reporter = Telling(emit)
        try:
            if self._bench is None:
                self._bench = self._recipe.build_evaluator(self._post, reporter)
                emit(Ready(os.getpid()))
            self._bench.reporter = reporter
            question.answer(self._bench, emit)
        except (KnbenchError, OSError) as error:
            emit(Failed(error))
        except Exception as error:  # a mistake of the program's: say where, for nobody sees this process
            emit(Failed(RuntimeError(f"{error}\n\nin a worker:\n{traceback.format_exc()}")))
        else:
            emit(Done())


class Telling(Reporter):
    """Passes on what is being done."""

    def __init__(self, emit: Emit) -> None:
        self._tell = emit

    def doing(self, what: str) -> None:
        """Tell the stage."""
        self._tell(Doing(what))

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Tell every step."""
        steps = iter(range(1, total + 1))
        yield lambda: self._tell(Doing(f"{what} {next(steps, total)}/{total}"))
