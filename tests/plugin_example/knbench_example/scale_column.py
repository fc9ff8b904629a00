"""An editing method in one file: scale the column of W that belongs to the subject's most active neuron."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit, Editor, hyperparameter
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.models.language_model import LanguageModel


@dataclass(frozen=True)
class ScaleColumnConfig:
    """Hyper-parameters of the method."""

    layer: int = hyperparameter(0, help="Layer whose MLP output projection W is edited.")
    factor: float = hyperparameter(0.0, help="Factor of the neuron's column of W.")


class ScaleColumn(Editor[ScaleColumnConfig]):
    """Finds the neuron with the largest activation at the subject's last token, and scales its column of W."""

    name = "scale-column"
    summary = "The subject's most active neuron writes more, less or nothing"
    Config = ScaleColumnConfig
    needs_subject = True

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Scale one column of a copy of W per request. W maps neurons to features and has shape (d, m)."""
        layer, name = self.config.layer, lm.mlp_weight_name(self.config.layer)
        weight = lm.parameter(name).detach().clone()
        for request in requests:
            tokens, subject = lm.subject_span(lm.prompt_prefix + request.prompt, request.subject)
            with torch.no_grad(), capture({"k": (lm.mlp_out(layer), "input")}) as captured:
                lm.model(input_ids=torch.tensor([tokens.ids], device=lm.device))
            neuron = int(captured["k"][0, subject[-1]].abs().argmax())
            lm.as_stored(layer, weight)[:, neuron] *= self.config.factor  # a view: this changes the copy
        return Edit(weights={name: weight}, diagnostics={"layer": layer})
