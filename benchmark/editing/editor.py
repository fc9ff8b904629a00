"""The base class of editing methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

from ..core.progress import Reporter
from ..core.schema import EditRequest, JsonObject
from ..models.language_model import LanguageModel
from .edit import Edit
from .hyperparameters import Published
from .state import State
from .training_cases import TrainingCase

EditorKind = Literal["weights", "context", "memory", "control"]
ConfigT = TypeVar("ConfigT")


class Editor(ABC, Generic[ConfigT]):
    """Base class of editing methods.

    A subclass sets the class attributes and implements :meth:`edit`. An editor must leave the model bit-identical. It
    draws random numbers from torch's global generator, which the runner seeds for each case, or derives them from
    ``self.seed``.

    Args:
        config: hyper-parameters, an instance of :attr:`Config`.
        seed: seed of the run.

    Attributes:
        name: name on the command line, in results and on the leaderboard. It equals the name of the entry point.
        summary: one-line description.
        paper: citation, or an empty string.
        kind: what the method changes: ``weights``, the text before a prompt (``context``), or a store beside the
            weights (``memory``). A ``control`` is a baseline that no method should resemble.
        Config: frozen dataclass of the hyper-parameters, see :func:`hyperparameter`.
        published: hyper-parameters for particular models.
        causal_only: whether the method cannot edit masked language models.
        needs_subject: whether the method cannot edit a request without a subject.
        needs_rival: whether the method cannot edit a request without a true answer.
        replays: whether a sequential edit trains on the facts of earlier edits again. Results record it.
        trains: whether the method is trained before its first edit, see :meth:`train`. Results record it.
        joint_batch_size: number of independent requests that :meth:`edit_each` processes best in one call.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    kind: ClassVar[EditorKind] = "weights"
    Config: ClassVar[type]
    published: ClassVar[Sequence[Published]] = ()
    causal_only: ClassVar[bool] = False
    needs_subject: ClassVar[bool] = False
    needs_rival: ClassVar[bool] = False
    replays: bool = False  # of the instance where it depends on the hyper-parameters
    trains: ClassVar[bool] = False
    joint_batch_size: ClassVar[int] = 1

    def __init__(self, config: ConfigT, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return values for hyper-parameters that have no default, for a model without published values."""
        del lm
        return {}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute the data that all edits of a model share. The runner calls this once per model, before any edit.

        Returns:
            JSON values that describe the data. They are stored in the manifest of the run.
        """
        del lm, reporter
        return {}

    def train(self, lm: LanguageModel, cases: Sequence[TrainingCase], reporter: Reporter) -> JsonObject:
        """Train the method for a model. The runner calls this once per model, after :meth:`prepare`, if it ``trains``.

        The same cases, hyper-parameters and seed give the same result. A long training stores its state in the cache
        and continues after an interruption.

        Args:
            lm: the model, which must be left unchanged.
            cases: tuning cases, none of which shares its subject with a case on which methods are scored.
            reporter: receives progress.

        Returns:
            JSON values that describe the training, for example a digest of what was learnt. They are stored in the
            manifest of the run. ``seconds``, the time that the training took, enters the cost of a result.
        """
        del lm, cases, reporter
        return {}

    @abstractmethod
    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute one edit that fulfils all requests.

        Args:
            lm: the model, which must be left unchanged.
            requests: one or more requests.

        Raises:
            ValueError: the method cannot edit one of the requests. The runner records the cases as failed.
        """

    def check_requests(self, requests: Sequence[EditRequest]) -> None:
        """Check that the requests have what the method needs. The runner calls this before every edit.

        Raises:
            ValueError: a request lacks a subject or a true answer that the method needs.
        """
        for request in requests:
            for needed, value, part in (
                (self.needs_subject, request.subject, "a subject"),
                (self.needs_rival, request.target_true, "a true answer"),
            ):
                if needed and not value:
                    raise ValueError(f"editor '{self.name}' needs {part}, and {request.text!r} has none")

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Compute an edit of a model to which the edits of ``earlier`` requests are already applied.

        The default ignores ``earlier`` and ``state``. Override it in a method that protects earlier edits. Such a
        method stores what it needs in :attr:`Edit.state`, never in attributes of the editor: an edit may be taken
        back, and a continued run computes its edits again.

        Args:
            lm: the edited model, which must be left unchanged.
            requests: requests of the new edit.
            earlier: requests of all previous edits, in order.
            state: :attr:`Edit.state` of the previous edit; None for the first edit. It must be left unchanged.

        Raises:
            ValueError: the method cannot edit one of the requests.
        """
        del earlier, state
        return self.edit(lm, requests)

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute one independent edit per request, equal to :meth:`edit` of that request alone.

        Override it, and set :attr:`joint_batch_size`, in a method that can share work between requests.

        Raises:
            ValueError: the method cannot edit one of the requests. The runner then edits them one by one.
        """
        return [self.edit(lm, [request]) for request in requests]
