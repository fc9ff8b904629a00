"""Training batches: prompts with their new targets, and the positions at which the targets are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.hooks import select_positions
from ...benchmark.models.language_model import LanguageModel, TokenQuery


@dataclass(frozen=True)
class TargetBatch:
    """A batch of edited prompts for training on their target tokens.

    The loss covers all tokens of each new target and no others, in particular not BOS. Every request has the same
    weight, as in the released code of Meng et al. 2022 (ROME): the loss of a request is the mean over its tokens, and
    the loss of the batch is the mean over requests.

    Attributes:
        inputs: keyword arguments of the model's forward pass.
        rows: batch row of each target token, (token,).
        columns: position at which each target token is predicted, (token,).
        targets: ids of the target tokens, (token,).
    """

    inputs: dict[str, Any]
    rows: Tensor
    columns: Tensor
    targets: Tensor

    @classmethod
    def of(cls, lm: LanguageModel, requests: Sequence[EditRequest], *, end_of_text: bool = False) -> TargetBatch:
        """Tokenise requests into a batch. For a masked model, all tokens of a target are masked at once.

        Args:
            lm: the model.
            requests: the requests.
            end_of_text: whether a causal model is trained to end the text after the target. A masked model, which reads
                the end of the sentence, is not.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, or the tokenizer has no end-of-text token.
        """
        end: int | None = lm.tokenizer.eos_token_id if end_of_text and lm.causal else None
        if end_of_text and lm.causal and end is None:
            raise ValueError(f"the tokenizer of '{lm.name}' has no end-of-text token; set end_of_text to false")
        texts, positions, targets = [], [], []
        for row, request in enumerate(requests):
            queries = lm.token_queries(request.text, request.target_new, ".")
            # The last query of a causal model contains the text of all others. The first of a masked model masks the
            # whole target.
            texts.append(queries[-1].ids if lm.causal else queries[0].ids)
            positions += [(row, query.position) for query in queries]
            targets += [query.token for query in queries]
            if end is not None:
                texts[-1] += (queries[-1].token,)
                positions.append((row, queries[-1].position + 1))
                targets.append(end)
        batch = lm.pad(texts)
        inputs: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if lm.causal:
            inputs["use_cache"] = False
        rows, columns = torch.tensor(positions, device=lm.device).T
        return cls(inputs, rows, columns, torch.tensor(targets, device=lm.device))

    def select(self, requests: Sequence[int]) -> TargetBatch:
        """Return the batch of some requests, by their row, without columns that are padding for all of them."""
        index = torch.tensor(requests, device=self.rows.device)
        mask = self.inputs["attention_mask"][index]
        width = int(mask.sum(1).max())
        ids = self.inputs["input_ids"][index, :width]
        found = [torch.nonzero(self.rows == request)[:, 0] for request in requests]
        tokens = torch.cat(found)
        rows = torch.repeat_interleave(torch.arange(len(index)), torch.tensor([len(part) for part in found]))
        inputs = {**self.inputs, "input_ids": ids, "attention_mask": mask[:, :width]}
        return TargetBatch(inputs, rows.to(index.device), self.columns[tokens], self.targets[tokens])

    def target_logits_only(self, lm: LanguageModel) -> AbstractContextManager[None]:
        """Make the model return the logits at the target positions alone, (token, vocabulary), in a ``with`` block."""
        return select_positions(lm, self.rows, self.columns)

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean over requests of the mean negative log-likelihood of their tokens.

        Args:
            logits: logits at the target positions, (token, vocabulary).
        """
        nll = torch.nn.functional.cross_entropy(logits.float(), self.targets, reduction="none")
        counts = self.rows.bincount()
        return (nll.new_zeros(len(counts)).index_add(0, self.rows, nll) / counts).mean()

    def token_loss(self, logits: Tensor) -> Tensor:
        """Return the mean negative log-likelihood over all target tokens, whichever request they belong to.

        Args:
            logits: logits at the target positions, (token, vocabulary).
        """
        return torch.nn.functional.cross_entropy(logits.float(), self.targets)


def query_logits(lm: LanguageModel, queries: Sequence[TokenQuery]) -> Tensor:
    """Return the logits at the position of each query, (query, vocabulary), float32."""
    batch = lm.pad([query.ids for query in queries])
    rows = torch.arange(len(queries), device=lm.device)
    columns = torch.tensor([query.position for query in queries], device=lm.device)
    with torch.no_grad(), select_positions(lm, rows, columns):
        logits: Tensor = lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
    return logits.float()
