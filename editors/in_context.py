"""The new fact is said before the prompt, and no weight is changed: the bar that weight editing has to beat.

After Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?" (EMNLP), without demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, NoConfig
from ..benchmark.models.language_model import LanguageModel


class InContext(Editor[NoConfig]):
    """Puts the edited statements before every prompt."""

    name = "in-context"
    summary = "No weight is changed: the new fact is said before each prompt"
    paper = "after Zheng et al. 2023 (EMNLP), without demonstrations"
    Config = NoConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return the statements as a prefix."""
        del lm
        return Edit(prefix="".join(f"{request.text} {request.target_new}. " for request in requests))
