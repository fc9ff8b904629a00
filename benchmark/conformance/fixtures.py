"""Fixtures of the conformance checks: edit requests, tiny random models and the editor under test."""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import EditRequest, Support, derived_seed
from ..editing import Edit, Editor, State, TrainingCase, build_editor, parse_overrides
from ..models.language_model import LanguageModel
from ..models.untrained import UntrainedKind, untrained
from ..running.attempts import seeded
from .snapshots import GlobalState, Snapshot, preserved_process_state

REQUEST = EditRequest(
    "The capital of {} is",
    "Canada",
    "Rome",
    "Ottawa",
    support=(
        Support("The national capital of Canada is", "Ottawa"),
        Support("As its capital, Canada has", "Ottawa"),
        Support("People say that the capital of Canada is", "Ottawa"),
        Support("On the map, the capital of Canada is", "Ottawa"),
    ),
)
OTHER_REQUEST = EditRequest(
    "It is in the city of {} that people like",
    "Paris",
    "Mexico City",
    "medicine",
    support=(
        Support("Those who visit Paris like", "medicine"),
        Support("In Paris people often ask about", "medicine"),
        Support("The sisters in Paris like", "medicine"),
        Support("Paris, it is known, likes", "medicine"),
    ),
)
"""Its prompt, subject and target differ in length from those of :data:`REQUEST`. A batch of both needs padding."""

TRAINING_CASES = tuple(
    TrainingCase(
        f"{subject}-{target}",
        EditRequest("The capital of {} is", subject, target, true),
        ((f"The national capital of {subject} is", target), (f"As its capital, {subject} has", target)),
        (("Susan liked this", "sketch"), ("Because it was late,", "nobody")),
    )
    for subject, true in (("France", "Paris"), ("Italy", "Rome"))
    for target in ("Ottawa", "Mexico City")
)
"""Cases for methods that are trained. Their subjects differ from those of the requests."""

LAYOUTS: tuple[UntrainedKind, ...] = ("gpt2", "llama")
"""Causal models that differ in how they store the weights of a linear layer."""
MAX_STEPS = 3
"""Upper limit for an editor's ``steps`` hyper-parameter. The checks do not need convergence."""


class ClassFixture:
    """The editor class under test, with a :class:`ModelFixture` for each kind of model that it claims to edit.

    Raises:
        KnbenchError: an override names no field of the editor's Config or has the wrong type.
    """

    def __init__(self, cls: type[Editor[Any]], name: str | None, overrides: Mapping[str, str]) -> None:
        if overrides:
            parse_overrides(cls, overrides)
        self.cls = cls
        self.name = name
        self.overrides = overrides
        self.global_state = GlobalState(cls)
        kinds = LAYOUTS if getattr(cls, "causal_only", False) else (*LAYOUTS, "bert")
        self.models = [ModelFixture(cls, kind, self.global_state, overrides) for kind in kinds]


class ModelFixture:
    """The editor class under test with one kind of tiny random model, called as the runner calls it.

    Attributes:
        unmanaged_seed: seed of the generators that the runner does not seed, those of Python and NumPy.
    """

    def __init__(
        self, cls: type[Editor[Any]], kind: UntrainedKind, global_state: GlobalState, overrides: Mapping[str, str]
    ) -> None:
        self.cls = cls
        self.overrides = overrides
        self.kind = kind
        self.global_state = global_state
        self.unmanaged_seed = 0

    def model(self, seed: int = 0) -> LanguageModel:
        """Return a new model. The same seed gives the same weights."""
        original = _cached_model(self.kind, seed)
        model, tokenizer = copy.deepcopy((original.model, original.tokenizer))
        return LanguageModel(model, tokenizer, original.family, name=original.name)

    def editor(self, lm: LanguageModel) -> Editor[Any]:
        """Return a new editor, configured with few steps and prepared for a model."""
        editor = self.unprepared_editor(lm)
        self.prepare(editor, lm)
        return editor

    def unprepared_editor(self, lm: LanguageModel) -> Editor[Any]:
        """Return a new editor with its generic hyper-parameters and the user's overrides."""
        editor, _ = build_editor(self.cls, lm, self.overrides)
        steps = getattr(editor.config, "steps", None)
        if isinstance(steps, int) and steps > MAX_STEPS and "steps" not in self.overrides:
            with suppress(KnbenchError):  # a Config may reject so few steps
                editor, _ = build_editor(self.cls, lm, {**self.overrides, "steps": str(MAX_STEPS)})
        return editor

    def prepare(self, editor: Editor[Any], lm: LanguageModel) -> Mapping[str, Any]:
        """Call ``prepare()`` under the seed that the runner sets."""
        with self._seeded(editor, "prepare"):
            prepared = editor.prepare(lm, Reporter())
            return {**prepared, "training": editor.train(lm, TRAINING_CASES, Reporter())} if editor.trains else prepared

    def edit(self, editor: Editor[Any], lm: LanguageModel, *requests: EditRequest, case: str = "case") -> Edit:
        """Call ``edit()`` under the seed that the runner sets for a case."""
        with self._seeded(editor, case):
            return editor.edit(lm, list(requests))

    def edit_next(
        self,
        editor: Editor[Any],
        lm: LanguageModel,
        request: EditRequest,
        earlier: Sequence[EditRequest],
        state: State | None,
    ) -> Edit:
        """Call ``edit_next()`` under the seed that the runner sets for a case."""
        with self._seeded(editor, "next"):
            return editor.edit_next(lm, [request], list(earlier), state)

    def edit_each(self, editor: Editor[Any], lm: LanguageModel, *requests: EditRequest) -> list[Edit]:
        """Call ``edit_each()`` under the default seed of :meth:`edit`."""
        with self._seeded(editor, "case"):
            return list(editor.edit_each(lm, list(requests)))

    @contextmanager
    def _seeded(self, editor: Editor[Any], case: str) -> Iterator[None]:
        random.seed(self.unmanaged_seed)
        np.random.seed(self.unmanaged_seed)
        with seeded(derived_seed(0, editor.name, case)):
            yield

    @property
    def setup_error(self) -> str | None:
        """Why the editor returns no Edit for this kind of model, or None."""
        return self._first_edit[0]

    @property
    def state_left_changed(self) -> frozenset[str]:
        """Names of the state that an ordinary edit changes. Only leaves-the-model-alone reports them."""
        return self._first_edit[1]

    @cached_property
    def _first_edit(self) -> tuple[str | None, frozenset[str]]:
        try:
            with preserved_process_state():
                lm = self.model()
                before = Snapshot(lm)
                edit: object = self.edit(self.editor(lm), lm, REQUEST)
                changed = frozenset(before.differences(Snapshot(lm)))
        except (Exception, SystemExit) as error:
            return describe_exception(error, self.cls), frozenset()
        if not isinstance(edit, Edit):
            return f"edit() returned {type(edit).__name__}, not Edit", changed
        return None, changed


@cache
def _cached_model(kind: UntrainedKind, seed: int) -> LanguageModel:
    """Return a model to copy from. A copy is cheaper than a new model."""
    return untrained(kind, seed)


def describe_exception(error: BaseException, cls: type[Editor[Any]]) -> str:
    """Describe an exception in one line, with the last position in the editor's own file if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    editor_file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    frame = next((f for f in reversed(frames) if f.filename == editor_file), frames[-1] if frames else None)
    position = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}{position}" if text else f"{type(error).__name__}{position}"
