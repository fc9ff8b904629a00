"""Texts of one edit for methods that train a matrix beside an MLP output projection, shared by WISE and MEMOIR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import SLOT, EditRequest
from ...benchmark.models.hooks import Side, capture, edit_output, resume_at
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.reading import Reading
from .batches import TargetBatch
from .prompt_inputs import reading_of
from .training import block_inputs

Change = Callable[[Tensor, Tensor], Tensor]
"""Maps input (row, position, m) and output (row, position, d) of the module to the output that replaces it."""


@dataclass(frozen=True)
class SideRows:
    """The prompt of a request in several contexts, each with its target, and other texts.

    Attributes:
        lm: the model.
        layer: layer of the module.
        batch: all rows; those of the request come first.
        state: input of the layer's block, (row, position, d).
        reading: which tokens are prompts.
        edited: number of rows of the request.
    """

    lm: LanguageModel
    layer: int
    batch: TargetBatch
    state: Tensor
    reading: Reading
    edited: int

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        request: EditRequest,
        contexts: Sequence[str],
        layer: int,
        others: Sequence[tuple[str, str]] = (),
    ) -> SideRows:
        """Tokenise the rows and compute the layers below the module, without memories.

        Args:
            lm: the model.
            request: the request.
            contexts: templates with ``{}`` for the prompt.
            layer: layer of the module.
            others: prompts with answers, which have no part in the loss of the target.

        Raises:
            ValueError: a target cannot be tokenised after its prompt.
        """
        texts = [(context.replace(SLOT, request.text, 1), request.target_new) for context in contexts]
        # A prompt in braces would be taken for a slot.
        rows = [EditRequest(text.replace(SLOT, ""), "", answer, "") for text, answer in (*texts, *others)]
        batch = TargetBatch.of(lm, rows)
        firsts = [int(batch.columns[batch.rows == row].min()) for row in range(len(rows))]
        reading = reading_of(lm, batch.inputs["attention_mask"], firsts)
        with lm.without_memories():
            state = block_inputs(lm, batch, layer)
        return cls(lm, layer, batch, state, reading, len(texts))

    def forward(self, change: Change) -> Tensor:
        """Return the logits at the target positions, (token, vocabulary), with the output of the module changed."""
        lm, module = self.lm, self.lm.mlp_out(self.layer)
        wanted: dict[str, tuple[nn.Module, Side]] = {"x": (module, "input")}
        with (
            torch.enable_grad(),
            lm.without_memories(),
            resume_at(lm, self.layer, self.state),
            capture(wanted) as captured,
            edit_output(module, lambda output: change(captured["x"], output)),
            self.batch.target_logits_only(lm),
        ):
            logits: Tensor = lm.model(**self.batch.inputs).logits
        return logits

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean over the rows of the request of the mean negative log-likelihood of their target tokens."""
        batch = self.batch
        nll = torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")
        sums = nll.new_zeros(len(self.state)).index_add(0, batch.rows, nll)
        return (sums / batch.rows.bincount())[: self.edited].mean()


def prompt_mean(values: Tensor, reading: Reading) -> Tensor:
    """Return the mean over the tokens of each row's prompt, (row,) or (row, features); 0 for a row without one.

    Args:
        values: one number or vector per position, (row, position) or (row, position, features).
        reading: which tokens are prompts.
    """
    weight = reading.prompt.to(values.dtype)
    count = weight.sum(1).clamp_min(1)
    if values.dim() == 2:
        return torch.where(reading.prompt, values, 0).sum(1) / count
    return torch.where(reading.prompt[..., None], values, 0).sum(1) / count[:, None]


def steps_until_settled(limit: int, losses: list[float]) -> Iterator[int]:
    """Yield the numbers of steps up to a limit. Stop after two losses below .02 that differ by at most 1e-4."""
    for step in range(limit):
        yield step
        if len(losses) > 1 and losses[-1] <= 0.02 and abs(losses[-1] - losses[-2]) <= 1e-4:
            return
