"""In-context editing: prepend the new fact to every prompt and change no weight.

This baseline follows Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?" (EMNLP), without
demonstrations. A method that edits weights should do better.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..benchmark.core.schema import EditRequest
from ..benchmark.core.text import join_answer
from ..benchmark.editing import Edit, Editor, NoConfig
from ..benchmark.models.language_model import LanguageModel


class InContext(Editor[NoConfig]):
    """Prepends the edited statements to every prompt."""

    name = "in-context"
    summary = "No weight is changed: the new fact is said before each prompt"
    paper = "after Zheng et al. 2023 (EMNLP), without demonstrations"
    kind = "context"
    Config = NoConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return an edit whose prefix is the requests' prompts, each completed with its new target."""
        del lm
        facts = [f"{join_answer(request.text, request.target_new)}. " for request in requests]
        return Edit(prefix="".join(facts), entries=len(facts))
