"""A method that violates the contract: it changes the model itself."""

from collections.abc import Sequence

import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit, Editor, NoConfig
from knbench.benchmark.models.language_model import LanguageModel


class InPlace(Editor[NoConfig]):
    """Halves W of the first layer in place and does not restore it."""

    name = "in-place"
    summary = "Changes the model in place and forgets to restore it"
    Config = NoConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Halve W in place, and return an edit without weights."""
        name = lm.mlp_weight_name(0)
        with torch.no_grad():
            lm.parameter(name).mul_(0.5)
        return Edit(diagnostics={"changed": name})
