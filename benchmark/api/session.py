"""``edit``: an edited model for the duration of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core import registry
from ..core.errors import KnbenchError
from ..core.schema import Task
from ..editing import Editor, EditStack, editor_class
from .answers import CONTINUATION
from .objects import as_language_model
from .planning import EditWords, make_plan
from .questions import own_questions
from .run_config import as_text
from .saving import save_edited
from .text import comparison_lines, to_text
from .trial import Attempted, Comparison, Exchange, Trial, default_editor


class EditedModel:
    """A model with one edit applied. :func:`edit` creates it.

    Attributes:
        lm: the edited model.
        attempt: the edit with its method, hyper-parameters and time.
    """

    def __init__(self, trial: Trial, attempt: Attempted, stack: EditStack) -> None:
        self.lm, self.attempt = trial.lm, attempt
        self._trial, self._stack = trial, stack

    def __repr__(self) -> str:
        request = self._trial.plan.request
        return f"EditedModel({self.lm.name!r}, {self.attempt.name!r}, {request.text!r} -> {request.target_new!r})"

    @property
    def model(self) -> Any:
        """The edited model of transformers. It generates as usual."""
        return self.lm.model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.lm.tokenizer

    def ask(self, *prompts: str) -> list[Exchange]:
        """Return the answers of the unedited and of the edited model to questions.

        Args:
            prompts: texts that the model continues. ``{}`` is replaced by the subject.

        Raises:
            KnbenchError: the model cannot read a question.
        """
        with self._unedited():
            return self._trial.ask(own_questions(prompts, self._trial.plan.request.subject))

    def compare(self) -> Comparison:
        """Return the answers to the questions about the edit: other words, consequences, neighbours."""
        with self._unedited():
            return self._trial.compare()

    def report(self) -> str:
        """Return the comparison as text for 80 columns, as ``knbench edit`` prints it."""
        return to_text(comparison_lines(self.compare()))

    def save(self, folder: str | Path) -> Path:
        """Save the edited model, its tokenizer and a model card, and return the folder.

        Raises:
            KnbenchError: the edit is not one of weights, or the folder exists.
        """
        with self._unedited():
            return save_edited(self.lm, self._trial.compare(), self.attempt, Path(folder))

    @contextmanager
    def _unedited(self) -> Iterator[None]:
        """Revert the edit, and apply it again at the end."""
        assert self.attempt.edit is not None
        self._stack.pop()
        try:
            yield
        finally:
            self._stack.push(self.attempt.edit)


@contextmanager
def edit(
    model: Any,
    prompt: str | None = None,
    subject: str = "",
    new: str | None = None,
    *,
    old: str = "",
    task: str | Task | None = None,
    case: str | None = None,
    ask: Sequence[str] = (),
    editor: str | type[Editor[Any]] | None = None,
    editor_args: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    tokens: int = CONTINUATION,
) -> Iterator[EditedModel]:
    """Edit one fact of a model for the duration of a ``with`` block.

    The model is restored bit for bit at the end of the block, also after an exception.

    Args:
        model: name, folder or hub id; a :class:`LanguageModel`; or a loaded model of transformers with ``tokenizer``.
        prompt: the statement up to its answer, with ``{}`` in the place of the subject.
        subject: the entity that the fact is about.
        new: the new answer.
        old: the answer before the edit, which some methods need. A task of the same relation provides it.
        task: a task whose questions are asked, by name or as an object. None searches one of the same relation.
        case: id or subject of a case of ``task``, instead of ``prompt`` and ``subject``.
        ask: further questions, for :meth:`EditedModel.compare`.
        editor: name or class of the method; None selects ``rome``, or ``ft`` for a masked model.
        editor_args: hyper-parameters by name.
        tokenizer: the tokenizer of a model of transformers.
        device: a torch device; ``auto`` selects a GPU if there is one. Loaded models stay where they are.
        dtype: data type of the weights of a model that is loaded here.
        seed: seed of the method.
        tokens: length of continuations, in tokens.

    Yields:
        The edited model.

    Raises:
        KnbenchError: a part of the edit is missing or wrong, the model or the method cannot be used, or the edit fails.

    Examples:
        >>> from knbench.benchmark import edit, load_model
        >>> lm = load_model("toy-gpt2")
        >>> with edit(lm, "The capital of {} is", "Canada", "Rome", editor="in-context") as edited:
        ...     answers = edited.ask("The capital of {} is", "The capital of France is")
        >>> [answer.before.continuation for answer in answers]
        [' Ottawa.', ' Paris.']
        >>> answers[1].after["in-context"].kl > 0
        True
    """
    lm = as_language_model(model, tokenizer, device=device, dtype=dtype)
    chosen = registry.task(task) if isinstance(task, str) else task
    words = EditWords(prompt, subject, new, old, case, ask)
    plan = make_plan(words, chosen, lambda: registry.tasks().values())
    cls = editor if isinstance(editor, type) else editor_class(editor or default_editor(lm))
    trial = Trial(lm, plan, seed=seed, tokens=tokens)
    attempt = trial.attempt(cls, as_text(editor_args or {}))
    if attempt.edit is None:
        assert attempt.failure is not None
        raise KnbenchError(f"editor '{cls.name}' failed: {attempt.failure.type}: {attempt.failure.message}")
    with EditStack(lm) as stack:
        stack.push(attempt.edit)
        yield EditedModel(trial, attempt, stack)
