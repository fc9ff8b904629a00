"""Texts before the prompt: what makes a key or a value that of a fact, and not of one wording's first words.

Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (NeurIPS), appendix E.5: the model itself writes
them. They are seeded, belong to one model, and go into the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch

from ...benchmark.core.progress import Reporter
from ...benchmark.core.schema import SLOT, JsonObject, derived_seed
from ...benchmark.editing import Editor
from ...benchmark.models.language_model import LanguageModel

START_WORDS = ("The", "Therefore", "Because", "I", "You")
"""First words of sampled contexts."""


class HasContexts(Protocol):
    """A config that may name its contexts."""

    @property
    def contexts(self) -> tuple[str, ...] | None:
        """Texts with a ``{}`` for the prompt, the first being ``{}`` itself; None lets the model write them."""


ConfigT = TypeVar("ConfigT", bound=HasContexts)


def check_contexts(contexts: tuple[str, ...] | None) -> None:
    """Make sure that contexts given by hand can be used.

    Raises:
        ValueError: the first is not the empty one, or one has not exactly one ``{}``.
    """
    if contexts is not None and (not contexts or contexts[0] != SLOT):
        raise ValueError("contexts must begin with the empty one, '{}'")
    if contexts is not None and any(context.count(SLOT) != 1 for context in contexts):
        raise ValueError("every context needs exactly one {} for the prompt")


class ContextEditor(Editor[ConfigT]):
    """A method that reads its requests in several contexts.

    Attributes:
        lengths: of sampled contexts, in tokens.
        per_length: how many of each length.
    """

    lengths: ClassVar[Sequence[int]] = (5, 10)
    per_length: ClassVar[int] = 10

    def __init__(self, config: ConfigT, seed: int = 0) -> None:
        super().__init__(config, seed)
        # By model, and gone with it: contexts that outlive a change of model would be another model's words.
        self._contexts: WeakKeyDictionary[LanguageModel, tuple[str, ...]] = WeakKeyDictionary()

    def contexts(self, lm: LanguageModel) -> tuple[str, ...]:
        """Return the context templates for a model: given by hand, or sampled once under the editor's seed."""
        if self.config.contexts is not None:
            return self.config.contexts
        if lm not in self._contexts:
            with torch.random.fork_rng():
                torch.manual_seed(derived_seed(self.seed, "contexts"))
                self._contexts[lm] = sample_contexts(lm, per_length=self.per_length, lengths=self.lengths)
        return self._contexts[lm]

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts; they are part of the result's provenance."""
        del reporter
        found: dict[str, Any] = {"contexts": list(self.contexts(lm))}
        return found


def sample_contexts(lm: LanguageModel, *, per_length: int = 10, lengths: Sequence[int] = (5, 10)) -> tuple[str, ...]:
    """Let the model write the short texts that stand before a prompt; the first is always the empty one.

    Draws from torch's global generator, so seed it. Returns templates with a ``{}`` for the prompt.
    """
    templates = [SLOT]
    share = -(-per_length // len(START_WORDS))
    for length in lengths:
        batch = lm.pad([lm.encode(word).ids for word in START_WORDS], side="left")
        with torch.no_grad():
            out = lm.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                do_sample=True,
                top_k=5,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=length,
                num_return_sequences=share,
                pad_token_id=lm.start_id,
            )
        texts = [lm.decode(row) for row in out.tolist()]
        templates += [text.replace("{", " ").replace("}", " ").strip() + ". " + SLOT for text in texts[:per_length]]
    return tuple(templates)
