"""A method with a state: each sequential edit scales another neuron. And a guard, for example ``scale-once+half``."""

from collections.abc import Sequence

import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit, Editor, Guard, NoConfig, State
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.models.language_model import LanguageModel
from torch import Tensor


class ScaleOnce(Editor[NoConfig]):
    """Sets the column of the most active neuron to zero. The state holds the neurons of earlier edits."""

    name = "scale-once"
    summary = "The most active neuron that no earlier edit has taken writes nothing"
    kind = "weights"
    Config = NoConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Edit as the first of a sequence."""
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Edit at the last token of each prompt, which needs no subject."""
        taken = [] if state is None else list(state.settings["neurons"])
        layer, name = 0, lm.weight_name("down", 0)
        weight = lm.parameter(name).detach().clone()
        for request in requests:
            query = lm.token_queries(request.text, request.target_new, ".")[0]
            with torch.no_grad(), capture({"k": (lm.projection("down", layer), "input")}) as captured:
                lm.model(input_ids=torch.tensor([query.ids], device=lm.device))
            activation = captured["k"][0, query.position].abs()
            activation[taken] = -1
            taken.append(int(activation.argmax()))
            lm.as_stored(layer, weight)[:, taken[-1]] = 0
        return Edit(weights={name: weight}, state=State(settings={"neurons": taken}))


class Half(Guard[NoConfig]):
    """Halves the change of every weight since the unedited model."""

    name = "half"
    summary = "half of the change since the unedited model"
    Config = NoConfig

    def update(self, lm: LanguageModel, name: str, original: Tensor, current: Tensor, proposed: Tensor) -> Tensor:
        """Return the mean of the unedited and the proposed weight."""
        return (original + proposed) / 2
