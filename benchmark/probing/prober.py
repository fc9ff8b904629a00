"""The factory of probers."""

from __future__ import annotations

from ..models.language_model import LanguageModel
from .base import Prober
from .causal import CausalProber
from .masked import MaskedProber


def make_prober(lm: LanguageModel, *, batch_size: int = 32, new_tokens: int = 6, free_tokens: int = 100) -> Prober:
    """Return the prober for a model's objective, causal or masked; see :class:`~.base.Prober` for the arguments."""
    cls = CausalProber if lm.causal else MaskedProber
    return cls(lm, batch_size=batch_size, new_tokens=new_tokens, free_tokens=free_tokens)
