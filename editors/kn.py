"""KN: find the neurons to which an answer is attributed, and rewrite, suppress or enhance them.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers" (ACL), sections 3 and 4. Niu et al. 2024 apply the
method to facts and linguistic phenomena alike. A request's knowledge neurons are those that the edited prompt shares
with the request's support: other wordings of a fact, other prompts of a phenomenon.

Differences from released code:

- A neuron with an attribution equal to the threshold is kept, as in the code of Dai et al. Public ports and the code
  of Niu et al. keep only larger ones.
- ``suppress`` and ``enhance`` change the weights, and thus the neuron's effect at every position. Public ports change
  the activation at the asked position alone; for GPT-2 they double it before the activation function.
- For a target of several tokens, each token follows the true previous ones. Public ports continue after the most
  probable token.
- ``rewrite`` scales the embeddings to the norm of the column, as in the code of Dai et al. Public ports subtract and
  add twice the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..benchmark.core.schema import EditRequest, Support
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.attribution import Integral, NeuronSite, Rule, Search, SharedNeurons, attributions, search
from ..benchmark.models.language_model import LanguageModel
from .shared.published import published

Operation = Literal["rewrite", "suppress", "enhance"]


@dataclass(frozen=True)
class KnowledgeNeuronsConfig:
    """Hyper-parameters of KN.

    The operation changes the column of W of each neuron, and thus its effect at every position.
    """

    operation: Operation = hyperparameter(
        "rewrite",
        help="Change of each neuron's column of W. rewrite: subtract the old target's embedding and add the new one's; "
        "suppress: set to zero; enhance: double.",
    )
    erase: float = hyperparameter(1.0, help="Factor lambda_1 of the old target's embedding in a rewrite.")
    write: float = hyperparameter(8.0, help="Factor lambda_2 of the new target's embedding in a rewrite.")
    steps: int = hyperparameter(20, help="Number of points of the attribution's integral.")
    rule: Rule = hyperparameter(
        "right",
        help="Points of the integral. right: j/n for j = 1..n; left: j = 0..n-1; inclusive: n points from 0 to 1.",
    )
    site: NeuronSite = hyperparameter(
        "neurons",
        help="Definition of a neuron. neurons: input of the MLP's output projection; pre-activation: input of the "
        "activation function.",
    )
    threshold: float = hyperparameter(0.2, help="Minimum attribution, as a fraction of the prompt's largest.")
    sharing: float = hyperparameter(0.7, help="Initial fraction of the prompts that must share a neuron.")
    prompts: int = hyperparameter(9, help="Maximum number of prompts to search, including the edited one.")

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.erase < 0 or self.write < 0:
            raise ValueError("prompts must be at least 1, erase and write not negative")
        _ = self.integral, self.search  # their constructors validate the other values

    @property
    def integral(self) -> Integral:
        """The parameters of the attribution."""
        return Integral(self.steps, self.rule, self.site)

    @property
    def search(self) -> Search:
        """The parameters of the selection of neurons."""
        return Search(self.threshold, self.sharing)


class KnowledgeNeurons(Editor[KnowledgeNeuronsConfig]):
    """Edits the columns of W that belong to the knowledge neurons of a fact or phenomenon."""

    name = "kn"
    summary = "Rewrites (or suppresses, or enhances) the few neurons that the answer is attributed to"
    paper = "Dai et al. 2022 (ACL)"
    Config = KnowledgeNeuronsConfig
    published = published("kn")
    needs_rival = True

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Change the columns of each request's neurons. Changes of several requests to one column are added.

        Raises:
            ValueError: no neuron reaches the thresholds, or a target cannot be tokenised after its prompt.
        """
        weights: dict[str, Tensor] = {}
        diagnostics = []
        for request in requests:
            found = self.find(lm, request)
            if not found.neurons:
                raise ValueError(f"no neuron is attributed to {request.target_true!r} after {request.text!r}")
            for layer, index in found.neurons:
                name = lm.mlp_weight_name(layer)
                start = lm.parameter(name).detach()
                column = lm.as_stored(layer, start)[:, index].float()
                new = weights.setdefault(name, start.clone())
                # as_stored is its own inverse and returns a view, so this writes into the new tensor.
                lm.as_stored(layer, new)[:, index] += self.change(lm, request, column).to(new.dtype)
            diagnostics.append({"neurons": [list(neuron) for neuron in found.neurons], "sharing": found.sharing})
        return Edit(weights=weights, diagnostics={"found": diagnostics})

    def find(self, lm: LanguageModel, request: EditRequest) -> SharedNeurons:
        """Search for the neurons that the edited prompt and its support share.

        Raises:
            ValueError: a target cannot be tokenised after its prompt.
        """
        prompts = (Support(request.text, request.target_true), *request.support)[: self.config.prompts]
        maps = [attributions(lm, p.prompt, p.target, self.config.integral, suffix=p.suffix) for p in prompts]
        return search(maps, self.config.search)

    def change(self, lm: LanguageModel, request: EditRequest, column: Tensor) -> Tensor:
        """Return the change of one column of W, (d,), float32.

        Args:
            lm: the model.
            request: the request.
            column: the column before the edit, (d,), float32.

        Raises:
            ValueError: the output embeddings have another size than the column.
        """
        if self.config.operation == "suppress":
            return -column
        if self.config.operation == "enhance":
            return column
        old, new = (_embedding(lm, request, target) for target in (request.target_true, request.target_new))
        if new.shape != column.shape:
            raise ValueError(
                f"operation 'rewrite' writes output embeddings into W, and their sizes differ ({len(new)} and "
                f"{len(column)}); use operation=suppress or operation=enhance"
            )
        size = column.norm()
        delta: Tensor = self.config.write * size * new / new.norm() - self.config.erase * size * old / old.norm()
        return delta


def _embedding(lm: LanguageModel, request: EditRequest, target: str) -> Tensor:
    """Return the output embedding of a target, the mean over its tokens, (d,), float32."""
    tokens = [query.token for query in lm.token_queries(request.text, target, ".")]
    table: Tensor = lm.model.get_output_embeddings().weight
    mean: Tensor = table[torch.tensor(tokens, device=table.device)].detach().float().mean(0)
    return mean
