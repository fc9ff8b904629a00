"""A worker's own side: it loads the model once, and answers one question after the other."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...core.errors import KnbenchError
from ...core.progress import Reporter
from ..evaluator import Post, Recipe, Workbench
from .messages import Doing, Done, Failed, Question, Ready, Tell


class Station:
    """Lays out a workbench when it is first asked for something, and keeps it."""

    def __init__(self, recipe: Recipe, post: Post) -> None:
        self._recipe, self._post = recipe, post
        self._bench: Workbench | None = None

    def answer(self, question: Question, tell: Tell) -> None:
        """Answer a question; the last thing told is :class:`Done` or :class:`Failed`."""
        reporter = Telling(tell)
        try:
            if self._bench is None:
                self._bench = self._recipe.lay_out(self._post, reporter)
                tell(Ready(os.getpid()))
            self._bench.reporter = reporter
            question.answer(self._bench, tell)
        except (KnbenchError, OSError) as error:
            tell(Failed(error))
        except Exception as error:  # a mistake of the program's: say where, for nobody sees this process
            tell(Failed(RuntimeError(f"{error}\n\nin a worker:\n{traceback.format_exc()}")))
        else:
            tell(Done())


class Telling(Reporter):
    """Passes on what is being done."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def doing(self, what: str) -> None:
        """Tell the stage."""
        self._tell(Doing(what))

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Tell every step."""
        steps = iter(range(1, total + 1))
        yield lambda: self._tell(Doing(f"{what} {next(steps, total)}/{total}"))
