"""The interface of an editing method: an :class:`Editor` computes an :class:`Edit`, the runner applies and reverts it.

A method is one subclass of :class:`Editor` with one frozen dataclass of hyper-parameters::

    @dataclass(frozen=True)
    class ScaleConfig:
        layer: int = hyperparameter(help="Layer whose MLP output projection is scaled.")
        factor: float = hyperparameter(0.5, help="Factor of the weights.")

    class Scale(Editor[ScaleConfig]):
        name = "scale"
        summary = "Scales one MLP output projection"
        Config = ScaleConfig

        @classmethod
        def generic(cls, lm):
            return {"layer": lm.n_layers // 2}

        def edit(self, lm, requests):
            name = lm.mlp_weight_name(self.config.layer)
            return Edit(weights={name: lm.parameter(name).detach() * self.config.factor})

An entry point in the group ``knbench.editors`` registers it. ``knbench check-editor scale`` tests the contract.
"""

from __future__ import annotations

from ..models.memory import Memory, MissingReadingError, OutputFunctionError
from ..models.reading import Reading
from .building import build_editor, editor_class, editor_classes, guard_class, parse_overrides
from .edit import Edit, EditSize, EditStack, NonFiniteEditError
from .editor import Editor, EditorKind
from .guard import Guard, MlpValues, RestrainsValues, ValueGuard, guarded
from .hyperparameters import NoConfig, Published, hyperparameter
from .in_place import InPlaceEditor, easyedit_request, rome_request
from .recall import Recall
from .state import State
from .training_cases import TrainingCase, cases_digest, check_disjoint, training_cases

__all__ = [
    "Edit",
    "EditSize",
    "EditStack",
    "Editor",
    "EditorKind",
    "Guard",
    "InPlaceEditor",
    "Memory",
    "MissingReadingError",
    "MlpValues",
    "NoConfig",
    "NonFiniteEditError",
    "OutputFunctionError",
    "Published",
    "Reading",
    "Recall",
    "RestrainsValues",
    "State",
    "TrainingCase",
    "ValueGuard",
    "build_editor",
    "cases_digest",
    "check_disjoint",
    "easyedit_request",
    "editor_class",
    "editor_classes",
    "guard_class",
    "guarded",
    "hyperparameter",
    "parse_overrides",
    "rome_request",
    "training_cases",
]
