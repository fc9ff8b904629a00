"""Guards: restraints of another method's updates, composed with it by name, for example ``memit+rect``."""

from __future__ import annotations

import copyreg
import dataclasses
import typing
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import EditRequest, JsonObject
from ..models.language_model import LanguageModel
from .edit import Edit
from .editor import Editor
from .hyperparameters import hyperparameter
from .state import State
from .training_cases import TrainingCase

GuardConfigT = TypeVar("GuardConfigT")


class Guard(ABC, Generic[GuardConfigT]):
    """Base class of guards. A guard replaces each weight that a method proposes.

    An entry point in the group ``knbench.guards`` registers a guard. ``memit+rect`` then is an editor: MEMIT, whose
    finished weights pass through ``rect``. Its hyper-parameters are those of MEMIT and those of the guard, which have
    the guard's name before them: ``rect_share``.

    Args:
        config: hyper-parameters, an instance of :attr:`Config`.
        seed: seed of the run.

    Attributes:
        name: name of the guard. It equals the name of the entry point.
        summary: one-line description.
        paper: citation, or an empty string.
        Config: frozen dataclass of the hyper-parameters. Each has a default.
        view: whether sequential edits continue from the weights without restraint. The guard then restrains the sum of
            all edits, and the state holds the weights without restraint.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type]
    view: ClassVar[bool] = False

    def __init__(self, config: GuardConfigT, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute data that all edits share; see :meth:`Editor.prepare`."""
        del lm, reporter
        return {}

    @abstractmethod
    def update(self, lm: LanguageModel, name: str, original: Tensor, current: Tensor, proposed: Tensor) -> Tensor:
        """Return the weight that replaces a proposed one. The arguments must be left unchanged.

        Args:
            lm: the model before the edit.
            name: name of the parameter.
            original: its value without any edit.
            current: its value before this edit, which differs from ``original`` in a sequential run.
            proposed: the value that the method proposes.

        Returns:
            A tensor of the shape and dtype of ``proposed``.

        Raises:
            ValueError: the guard is not defined for this weight.
        """


MlpValues = Callable[[Sequence[EditRequest]], tuple[Tensor, Tensor]]
"""Computes for requests the output of an MLP at the subject on the unedited model, and the value that the method would
write in its place, both (n, d)."""


class ValueGuard(Guard[GuardConfigT]):
    """Base class of guards that restrain the values that a method writes, in place of its weights.

    They act on methods that optimise the output of an MLP and solve for the weights that produce it, see
    :class:`RestrainsValues`.
    """

    @abstractmethod
    def prepare_values(self, lm: LanguageModel, layer: int, values: MlpValues, reporter: Reporter) -> JsonObject:
        """Compute data of one layer that all edits share, once per model. The method calls this before every edit.

        Returns:
            JSON values that describe the data.
        """

    @abstractmethod
    def value(self, lm: LanguageModel, layer: int, start: Tensor, value: Tensor) -> Tensor:
        """Return the value that replaces the one that the method optimised. The arguments must be left unchanged.

        Args:
            lm: the model before the edit.
            layer: the layer of the value.
            start: output of the layer's MLP before the edit, (d,).
            value: the optimised output, (d,).

        Returns:
            The new value, (d,). ``start`` itself leaves the fact unwritten.
        """

    def update(self, lm: LanguageModel, name: str, original: Tensor, current: Tensor, proposed: Tensor) -> Tensor:
        """Return the proposed weight."""
        del lm, name, original, current
        return proposed


class RestrainsValues:
    """Base class of methods that apply guards of values.

    Attributes:
        value_guards: the guards, in the order in which they act. A composition with guards sets them.
    """

    value_guards: Sequence[ValueGuard[Any]] = ()


class _GuardedType(ABCMeta):
    """Type of composed classes. They are pickled as their base class and guards, because no module contains them."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a composed config: the class of its values, and the prefix of their names."""

    config: type
    prefix: str

    @property
    def names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self.config)]

    def values_of(self, composed: Any) -> Any:
        """Return the part's own config from a composed one.

        Raises:
            ValueError: a value is out of range.
        """
        return self.config(**{name: getattr(composed, self.prefix + name) for name in self.names})


class GuardedEditor(Editor[Any], metaclass=_GuardedType):
    """An editor whose weights pass through guards. :func:`guarded` makes the subclasses.

    Attributes:
        base: class of the method.
        guards: classes of the guards, in the order in which they act.
    """

    base: ClassVar[type[Editor[Any]]]
    guards: ClassVar[tuple[type[Guard[Any]], ...]]
    parts: ClassVar[tuple[_Part, ...]]

    def __init__(self, config: Any, seed: int = 0) -> None:
        super().__init__(config, seed)
        first, *others = (part.values_of(config) for part in self.parts)
        self._editor = self.base(first, seed)
        self.replays = self._editor.replays
        self._guards = [cls(values, seed) for cls, values in zip(self.guards, others, strict=True)]
        if isinstance(self._editor, RestrainsValues):
            self._editor.value_guards = [guard for guard in self._guards if isinstance(guard, ValueGuard)]

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the values of the method."""
        return cls.base.generic(lm)

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Prepare the method and the guards."""
        prepared = {guard.name: guard.prepare(lm, reporter) for guard in self._guards}
        return {**self._editor.prepare(lm, reporter), "guards": prepared}

    def train(self, lm: LanguageModel, cases: Sequence[TrainingCase], reporter: Reporter) -> JsonObject:
        """Train the method."""
        return self._editor.train(lm, cases, reporter)

    def check_requests(self, requests: Sequence[EditRequest]) -> None:
        """Check that the requests have what the method needs."""
        self._editor.check_requests(requests)

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the method's edit and restrain its weights.

        Raises:
            ValueError: the method cannot edit a request, the edit changes no weight, or a guard refuses a weight.
        """
        edit = self._editor.edit(lm, requests)
        return self._with_state(self._restrained(lm, edit), edit.weights)

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Compute the method's next edit and restrain its weights.

        Raises:
            ValueError: see :meth:`edit`.
        """
        own, free = _split(state) if self._view else (state, {})
        with Edit(weights=free).applied(lm):
            edit = self._editor.edit_next(lm, requests, earlier, own)
        free = {**free, **edit.weights}
        return self._with_state(self._restrained(lm, dataclasses.replace(edit, weights=free)), free)

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute one independent edit per request and restrain its weights.

        Raises:
            ValueError: see :meth:`edit`.
        """
        edits = self._editor.edit_each(lm, requests)
        return [self._with_state(self._restrained(lm, edit), edit.weights) for edit in edits]

    @property
    def _view(self) -> bool:
        return any(guard.view for guard in self.guards)

    def _with_state(self, edit: Edit, free: Mapping[str, Tensor]) -> Edit:
        """Return an edit whose state also holds the weights without restraint, if a guard is a view."""
        if not self._view:
            return edit
        tensors = {} if edit.state is None else dict(edit.state.tensors)
        settings = None if edit.state is None else dict(edit.state.settings)
        tensors.update({FREE + name: tensor for name, tensor in free.items()})
        return dataclasses.replace(edit, state=State(tensors, {"method": settings}))

    def _restrained(self, lm: LanguageModel, edit: Edit) -> Edit:
        if not edit.weights:
            raise ValueError(f"'{self.base.name}' changes no weight that a guard could restrain")
        weights = dict(edit.weights)
        for name, proposed in edit.weights.items():
            current = lm.parameter(name).detach()
            for guard in self._guards:
                proposed = guard.update(lm, name, lm.unedited(name), current, proposed)
            weights[name] = proposed
        return dataclasses.replace(edit, weights=weights)


FREE = "without restraint: "
"""Start of the names of a view's tensors in a state."""


def _split(state: State | None) -> tuple[State | None, dict[str, Tensor]]:
    """Return the state of the method, and the weights without restraint by name."""
    if state is None:
        return None, {}
    free = {name.removeprefix(FREE): t for name, t in state.tensors.items() if name.startswith(FREE)}
    if state.settings["method"] is None:
        return None, free
    own = {name: t for name, t in state.tensors.items() if not name.startswith(FREE)}
    return State(own, state.settings["method"]), free


@cache
def guarded(base: type[Editor[Any]], guards: tuple[type[Guard[Any]], ...]) -> type[GuardedEditor]:
    """Return the editor class that composes a method with guards.

    Args:
        base: the method.
        guards: the guards, in the order in which they act.

    Raises:
        KnbenchError: the method does not edit weights, or a guard restrains values and the method writes none, or a
            guard occurs twice.
    """
    name = "+".join([base.name, *(guard.name for guard in guards)])
    if base.kind not in ("weights", "control"):
        raise KnbenchError(f"editor '{name}': guards restrain weights, and '{base.name}' changes none")
    of_values = [guard.name for guard in guards if issubclass(guard, ValueGuard)]
    if of_values and not issubclass(base, RestrainsValues):
        raise KnbenchError(
            f"editor '{name}': guard '{of_values[0]}' restrains the values that a method solves for, and '{base.name}' "
            "has none; use a method of the family of memit"
        )
    if len(set(guards)) < len(guards):
        raise KnbenchError(f"editor '{name}' names a guard twice")
    parts = (_Part(base.Config, ""), *(_Part(g.Config, g.name.replace("-", "_") + "_") for g in guards))
    attributes = {
        "name": name,
        "summary": "; ".join([base.summary, *(guard.summary for guard in guards)]),
        "paper": "; ".join(filter(None, [base.paper, *(guard.paper for guard in guards)])),
        "Config": _composed_config(name, parts),
        "base": base,
        "guards": guards,
        "parts": parts,
        "__module__": base.__module__,
        "__doc__": f"{base.name}, restrained by {', '.join(guard.name for guard in guards)}.",
    }
    inherited = (
        "published",
        "kind",
        "causal_only",
        "needs_subject",
        "needs_rival",
        "replays",
        "trains",
        "joint_batch_size",
    )
    attributes.update({attribute: getattr(base, attribute) for attribute in inherited})
    composed: Any = _GuardedType(name, (GuardedEditor,), attributes)
    return composed  # type: ignore[no-any-return]


def _composed_config(name: str, parts: Sequence[_Part]) -> type:
    """Return a frozen dataclass with the fields of all parts. Fields without a default come first."""
    fields: list[tuple[str, Any, Any]] = []
    for part in parts:
        hints = typing.get_type_hints(part.config)
        for own in dataclasses.fields(part.config):
            help_text = own.metadata.get("help", "")
            default = (
                hyperparameter(help=help_text)
                if own.default is dataclasses.MISSING
                else hyperparameter(own.default, help=help_text)
            )
            fields.append((part.prefix + own.name, hints[own.name], default))

    def check(composed: Any) -> None:
        for part in parts:
            part.values_of(composed)

    return dataclasses.make_dataclass(
        f"Config of {name}", fields, namespace={"__post_init__": check}, frozen=True, kw_only=True
    )


def _reduce(cls: type[GuardedEditor]) -> Any:
    return (guarded, (cls.base, cls.guards)) if "base" in vars(cls) else cls.__name__


copyreg.pickle(_GuardedType, _reduce)  # type: ignore[arg-type]  # typed for instances of ordinary classes
