"""KN: find the few neurons that an answer hangs on, and suppress, enhance or rewrite them.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers" (ACL), sections 3 and 4; as Niu et al. 2024 run it for
facts and for linguistic phenomena alike. The neurons are those that the edited prompt shares with the request's
support: other wordings of a fact, other prompts of a phenomenon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..benchmark.core.schema import EditRequest, Support
from ..benchmark.editing import Edit, Editor
from ..benchmark.models.attribution import Found, Integral, NeuronSite, Rule, Search, attributions, search
from ..benchmark.models.language_model import LanguageModel
from .published import published

Operation = Literal["rewrite", "suppress", "enhance"]


@dataclass(frozen=True)
class KnowledgeNeuronsConfig:
    """Hyper-parameters.

    Attributes:
        operation: what is done to each neuron's column of W, so at every position: ``rewrite`` takes the old
            target's embedding out and puts the new one's in; ``suppress`` sets the column to zero, as if the neuron
            never fired; ``enhance`` doubles it.
        erase: factor lambda_1 of the old target's embedding in a rewrite.
        write: factor lambda_2 of the new target's embedding in a rewrite.
        steps: points of the integral.
        rule: which points, see :class:`~knbench.benchmark.models.attribution.Integral`.
        site: where neurons are read, see there.
        threshold: share of a prompt's largest attribution that a neuron must reach.
        sharing: share of the prompts that must have a neuron, at first.
        prompts: how many prompts are searched at most, the edited one among them.
    """

    operation: Operation = "rewrite"
    erase: float = 1.0
    write: float = 8.0
    steps: int = 20
    rule: Rule = "right"
    site: NeuronSite = "neurons"
    threshold: float = 0.2
    sharing: float = 0.7
    prompts: int = 9

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.erase < 0 or self.write < 0:
            raise ValueError("prompts must be at least 1, erase and write not negative")
        _ = self.integral, self.search  # which check their own

    @property
    def integral(self) -> Integral:
        """How attributions are computed."""
        return Integral(self.steps, self.rule, self.site)

    @property
    def search(self) -> Search:
        """How neurons are chosen from them."""
        return Search(self.threshold, self.sharing)


class KnowledgeNeurons(Editor[KnowledgeNeuronsConfig]):
    """Edits the columns of W that belong to a fact's or a phenomenon's knowledge neurons."""

    name = "kn"
    summary = "Rewrites (or suppresses, or enhances) the few neurons that the answer is attributed to"
    paper = "Dai et al. 2022 (ACL)"
    Config = KnowledgeNeuronsConfig
    published = published("kn")

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Change the columns of each request's neurons; changes of several requests to one column add up.

        Raises:
            ValueError: no neuron reaches the thresholds, or a target cannot be tokenised.
        """
        weights: dict[str, Tensor] = {}
        notes = []
        for request in requests:
            found = self.find(lm, request)
            if not found.neurons:
                raise ValueError(f"no neuron is attributed to {request.target_true!r} after {request.text!r}")
            for layer, index in found.neurons:
                name = lm.mlp_weight_name(layer)
                start = lm.parameter(name).detach()
                column = lm.as_stored(layer, start)[:, index].float()
                new = weights.setdefault(name, start.clone())
                # as_stored is its own inverse and a view, so this writes into the new tensor.
                lm.as_stored(layer, new)[:, index] += self.change(lm, request, column).to(new.dtype)
            notes.append({"neurons": [list(neuron) for neuron in found.neurons], "sharing": found.sharing})
        return Edit(weights=weights, diagnostics={"found": notes})

    def find(self, lm: LanguageModel, request: EditRequest) -> Found:
        """Search the neurons that the edited prompt and its support share."""
        shown = (Support(request.text, request.target_true), *request.support)[: self.config.prompts]
        maps = [attributions(lm, s.prompt, s.target, self.config.integral, suffix=s.suffix) for s in shown]
        return search(maps, self.config.search)

    def change(self, lm: LanguageModel, request: EditRequest, column: Tensor) -> Tensor:
        """Return what is added to one column of W, (d,), float32."""
        if self.config.operation == "suppress":
            return -column
        if self.config.operation == "enhance":
            return column
        old, new = (_embedding(lm, request, target) for target in (request.target_true, request.target_new))
        size = column.norm()
        moved: Tensor = self.config.write * size * new / new.norm() - self.config.erase * size * old / old.norm()
        return moved


def _embedding(lm: LanguageModel, request: EditRequest, target: str) -> Tensor:
    """Return the output embedding of a target, the mean over its tokens, (d,)."""
    tokens = [question.token for question in lm.token_queries(request.text, target, ".")]
    table: Tensor = lm.model.get_output_embeddings().weight
    mean: Tensor = table[torch.tensor(tokens, device=table.device)].detach().float().mean(0)
    return mean
