"""An editing method in one file: scale what the subject's most active neuron writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit, Editor
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.models.language_model import LanguageModel


@dataclass(frozen=True)
class ScaleColumnConfig:
    """Whose MLP output projection W is changed, and by what its column is multiplied."""

    layer: int = 0
    factor: float = 0.0


class ScaleColumn(Editor[ScaleColumnConfig]):
    """Find the neuron with the largest activation at the subject's last token, and scale its column of W."""

    name = "scale-column"
    summary = "The subject's most active neuron writes more, less or nothing"
    Config = ScaleColumnConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Scale one column of a copy of W per request; W has a row per feature and a column per neuron."""
        layer, name = self.config.layer, lm.mlp_weight_name(self.config.layer)
        weight = lm.parameter(name).detach().clone()
        for request in requests:
            tokens, subject = lm.subject_span(lm.prompt_prefix + request.prompt, request.subject)
            with torch.no_grad(), capture({"k": (lm.mlp_out(layer), "input")}) as seen:
                lm.model(input_ids=torch.tensor([tokens.ids], device=lm.device))
            neuron = int(seen["k"][0, subject[-1]].abs().argmax())
            lm.as_stored(layer, weight)[:, neuron] *= self.config.factor  # a view: the copy is changed
        return Edit(weights={name: weight}, diagnostics={"layer": layer})
