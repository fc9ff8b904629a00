"""What training on facts reads: the edited prompts with their new targets, and where the targets are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.hooks import select_positions
from ...benchmark.models.language_model import LanguageModel


@dataclass(frozen=True)
class TargetBatch:
    """A batch of prompts, with the loss on the target tokens alone: all of them, and never BOS.

    Attributes:
        inputs: what the model is called with.
        rows: of each target token, its row, (token,).
        columns: where it is predicted, (token,).
        wanted: the token, (token,).
    """

    inputs: dict[str, Any]
    rows: Tensor
    columns: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, lm: LanguageModel, requests: Sequence[EditRequest]) -> TargetBatch:
        """Lay the requests out: in a masked model all tokens of a target are masks at once.

        Raises:
            ValueError: a target cannot be tokenised after its prompt.
        """
        texts, spots, wanted = [], [], []
        for row, request in enumerate(requests):
            token_queries = lm.token_queries(request.text, request.target_new, ".")
            # A causal model's last question holds the text of all others; a masked one's first hides the whole target.
            texts.append(token_queries[-1].ids if lm.causal else token_queries[0].ids)
            spots += [(row, question.position) for question in token_queries]
            wanted += [question.token for question in token_queries]
        batch = lm.pad(texts)
        inputs: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if lm.causal:
            inputs["use_cache"] = False
        rows, columns = torch.tensor(spots, device=lm.device).T
        return cls(inputs, rows, columns, torch.tensor(wanted, device=lm.device))

    def selected(self, lm: LanguageModel) -> Any:
        """``with lesson.selected(lm): logits = ...`` gives logits at the targets alone, (token, vocabulary)."""
        return select_positions(lm, self.rows, self.columns)

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean NLL over target tokens."""
        return torch.nn.functional.cross_entropy(logits.float(), self.wanted)
