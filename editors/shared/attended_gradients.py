"""Inputs and output gradients of linear modules at all tokens of the requests, prompt included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.hooks import Side, capture, edit_output, resume_at
from ...benchmark.models.language_model import LanguageModel
from .background import ModuleRows
from .batches import TargetBatch
from .training import block_inputs


@dataclass(frozen=True)
class Text:
    """A prompt with its answer, and the input of a block for its tokens.

    Attributes:
        batch: one row without padding.
        state: input of the block, (1, position, d).
    """

    batch: TargetBatch
    state: Tensor


def read_texts(lm: LanguageModel, pairs: Sequence[tuple[str, str]], layer: int) -> list[Text]:
    """Return texts with the input of a block, which is computed for all of them in shared passes.

    Args:
        lm: the model.
        pairs: prompts with answers.
        layer: the layer of the block.

    Raises:
        ValueError: an answer cannot be tokenised after its prompt.
    """
    whole = TargetBatch.of(lm, [EditRequest(prompt, "", answer, "") for prompt, answer in pairs])
    state = block_inputs(lm, whole, layer)
    rows = [whole.select([i]) for i in range(len(pairs))]
    return [Text(row, state[i : i + 1, : row.inputs["input_ids"].shape[1]]) for i, row in enumerate(rows)]


def attended_gradients(
    lm: LanguageModel, text: Text, modules: Mapping[str, nn.Module], layer: int
) -> dict[str, ModuleRows]:
    """Return the rows of modules for the mean negative log-likelihood of the answer's tokens.

    Args:
        lm: the model, which is left unchanged.
        text: the text.
        modules: linear modules by name, none of them below the layer.
        layer: the layer of the text's block.
    """
    batch = text.batch
    inputs: dict[str, tuple[nn.Module, Side]] = {name: (module, "input") for name, module in modules.items()}
    zeros: dict[str, Tensor] = {}

    def add_zero(output: Tensor, name: str) -> Tensor:
        zeros[name] = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the output
        return output + zeros[name]

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(resume_at(lm, layer, text.state))
        captured = stack.enter_context(capture(inputs))
        for name, module in modules.items():
            stack.enter_context(edit_output(module, partial(add_zero, name=name)))
        stack.enter_context(batch.target_logits_only(lm))
        loss = batch.token_loss(lm.model(**batch.inputs).logits)
        gradients = torch.autograd.grad(loss, [zeros[name] for name in modules])
    return {
        name: (captured[name].detach()[0].float(), gradient[0].float())
        for name, gradient in zip(modules, gradients, strict=True)
    }
