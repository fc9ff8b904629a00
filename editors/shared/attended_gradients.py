"""Inputs and output gradients of linear modules at all tokens of the requests, prompt included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.hooks import Side, capture, edit_output, resume_at
from ...benchmark.models.language_model import LanguageModel
from .background import ModuleRows
from .batches import TargetBatch
from .training import block_inputs


def attended_gradients(
    lm: LanguageModel, requests: Sequence[EditRequest], modules: Mapping[str, nn.Module], first_layer: int
) -> dict[str, ModuleRows]:
    """Return the rows of modules for the mean negative log-likelihood of the targets' tokens, without padding.

    Layers below the first edited one are computed without gradients.

    Args:
        lm: the model, which is left unchanged.
        requests: the requests.
        modules: linear modules by name.
        first_layer: the lowest layer of them.

    Raises:
        ValueError: a target cannot be tokenised after its prompt.
    """
    batch = TargetBatch.of(lm, requests)
    state = block_inputs(lm, batch, first_layer)
    inputs: dict[str, tuple[nn.Module, Side]] = {name: (module, "input") for name, module in modules.items()}
    zeros: dict[str, Tensor] = {}

    def add_zero(output: Tensor, name: str) -> Tensor:
        zeros[name] = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the output
        return output + zeros[name]

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(resume_at(lm, first_layer, state))
        captured = stack.enter_context(capture(inputs))
        for name, module in modules.items():
            stack.enter_context(edit_output(module, partial(add_zero, name=name)))
        stack.enter_context(batch.target_logits_only(lm))
        loss = batch.token_loss(lm.model(**batch.inputs).logits)
        gradients = torch.autograd.grad(loss, [zeros[name] for name in modules])
    real = batch.inputs["attention_mask"].bool()
    return {
        name: (captured[name].detach()[real].float(), gradient[real].float())
        for name, gradient in zip(modules, gradients, strict=True)
    }
