"""No edit: the control that all methods are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, NoConfig
from ..benchmark.models.language_model import LanguageModel


class NoEdit(Editor[NoConfig]):
    """Leaves the model unchanged."""

    name = "none"
    summary = "No edit: the unedited model, as the control"
    kind = "control"
    Config = NoConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return the empty edit."""
        del lm, requests
        return Edit()
