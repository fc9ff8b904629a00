"""Contexts: short texts before a prompt, over which keys and losses are averaged.

The average keeps a key or value from depending on the first words of one wording. Meng et al. 2022, "Locating and
Editing Factual Associations in GPT" (NeurIPS), appendix E.5, sample them from the model itself. The sampled contexts
depend on the seed and the model, and are stored in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch

from ...benchmark.core.progress import Reporter
from ...benchmark.core.schema import SLOT, JsonObject, derived_seed
from ...benchmark.editing import Editor
from ...benchmark.models.generation import default_generation_config
from ...benchmark.models.language_model import LanguageModel

START_WORDS = ("The", "Therefore", "Because", "I", "You")
"""First words of sampled contexts."""


class HasContexts(Protocol):
    """A config with contexts."""

    @property
    def contexts(self) -> tuple[str, ...] | None:
        """Templates with a ``{}`` for the prompt, the first being ``{}`` itself; None samples them from the model."""


ConfigT = TypeVar("ConfigT", bound=HasContexts)


def check_contexts(contexts: tuple[str, ...] | None) -> None:
    """Validate the contexts of a config.

    Raises:
        ValueError: the first context is not ``{}``, or a context does not contain exactly one ``{}``.
    """
    if contexts is not None and (not contexts or contexts[0] != SLOT):
        raise ValueError("contexts must begin with the empty one, '{}'")
    if contexts is not None and any(context.count(SLOT) != 1 for context in contexts):
        raise ValueError("every context needs exactly one {} for the prompt")


class ContextEditor(Editor[ConfigT]):
    """Base class of methods that read their requests in several contexts.

    Attributes:
        lengths: lengths of sampled contexts in tokens.
        per_length: number of contexts of each length.
    """

    lengths: ClassVar[Sequence[int]] = (5, 10)
    per_length: ClassVar[int] = 10

    def __init__(self, config: ConfigT, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: contexts that were sampled from one model must not be used for another.
        self._contexts: WeakKeyDictionary[LanguageModel, tuple[str, ...]] = WeakKeyDictionary()

    def contexts(self, lm: LanguageModel) -> tuple[str, ...]:
        """Return the context templates for a model, from the config or sampled once with the editor's seed."""
        if self.config.contexts is not None:
            return self.config.contexts
        if lm not in self._contexts:
            with torch.random.fork_rng():
                torch.manual_seed(derived_seed(self.seed, "contexts"))
                self._contexts[lm] = sample_contexts(lm, per_length=self.per_length, lengths=self.lengths)
        return self._contexts[lm]

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and return them as part of the result's provenance."""
        del reporter
        return {"contexts": list(self.contexts(lm))}


def sample_contexts(lm: LanguageModel, *, per_length: int = 10, lengths: Sequence[int] = (5, 10)) -> tuple[str, ...]:
    """Sample context templates from a causal model, using torch's global random generator.

    The model's own generation config has no influence, except for the ids of special tokens.

    Args:
        lm: the model.
        per_length: number of contexts of each length.
        lengths: lengths in tokens, not counting the first word.

    Returns:
        Templates with a ``{}`` for the prompt. The first is ``{}`` itself.
    """
    templates = [SLOT]
    per_word = -(-per_length // len(START_WORDS))
    for length in lengths:
        batch = lm.pad([lm.encode(word).ids for word in START_WORDS], side="left")
        with torch.no_grad(), default_generation_config(lm.model):
            sampled = lm.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                do_sample=True,
                top_k=5,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=length,
                num_return_sequences=per_word,
                pad_token_id=lm.start_id,
            )
        texts = [lm.decode(row) for row in sampled.tolist()]
        templates += [text.replace("{", " ").replace("}", " ").strip() + ". " + SLOT for text in texts[:per_length]]
    return tuple(templates)
