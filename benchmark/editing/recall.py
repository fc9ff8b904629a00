"""Recall: texts of earlier facts, of which an edit puts the fitting ones before a prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from ..core.schema import JsonObject
from ..models.language_model import LanguageModel
from ..models.memory import content_digest


@dataclass(frozen=True)
class Recall(ABC):
    """A text before each prompt that depends on the prompt.

    A recall is immutable: a method returns a new one with each edit, which contains the earlier facts.

    Attributes:
        texts: texts of the facts.
        tensors: detached tensors by name, for example an embedding of each text.
        settings: JSON values by name.
    """

    texts: tuple[str, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    settings: JsonObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    @property
    def entries(self) -> int:
        """Number of facts."""
        return len(self.texts)

    @abstractmethod
    def preface(self, lm: LanguageModel, prompt: str) -> str:
        """Return the text that precedes a prompt, or an empty string.

        It depends on the prompt alone, which never contains an answer. It may run the model, whose memories and
        prefaces are switched off meanwhile.

        Args:
            lm: the model, which must be left unchanged.
            prompt: the prompt without any preface; never empty.
        """

    def digest(self) -> str:
        """Return a sha256 over the class, the texts, the settings and the tensors."""
        kind = type(self)
        settings = {"texts": list(self.texts), "settings": dict(self.settings)}
        return content_digest(f"{kind.__module__}.{kind.__qualname__}", self.tensors, settings)
