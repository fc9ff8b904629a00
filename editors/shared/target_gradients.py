"""Inputs and output gradients of linear modules at the positions that predict the new targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.hooks import Side, capture, edit_output
from ...benchmark.models.language_model import LanguageModel
from .background import ModuleRows
from .batches import TargetBatch


def target_gradients(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    modules: Mapping[str, nn.Module],
    reduction: Literal["mean", "sum"] = "mean",
) -> dict[str, ModuleRows]:
    """Return inputs and output gradients of modules, for each target token of some requests.

    The loss is the mean or the sum over all target tokens of their negative log-likelihood. The model is left
    unchanged: no parameter needs a gradient.

    Args:
        lm: the model.
        requests: the requests, read in one pass.
        modules: linear modules by name.
        reduction: mean or sum over target tokens.

    Raises:
        ValueError: a target cannot be tokenised after its prompt.
    """
    batch = TargetBatch.of(lm, requests)
    inputs: dict[str, tuple[nn.Module, Side]] = {name: (module, "input") for name, module in modules.items()}
    zeros: dict[str, Tensor] = {}

    def add_zero(output: Tensor, name: str) -> Tensor:
        zeros[name] = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the output
        return output + zeros[name]

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        captured = stack.enter_context(capture(inputs))
        for name, module in modules.items():
            stack.enter_context(edit_output(module, partial(add_zero, name=name)))
        stack.enter_context(batch.target_logits_only(lm))
        loss = batch.token_loss(lm.model(**batch.inputs).logits)
        if reduction == "sum":
            loss = loss * len(batch.targets)
        gradients = torch.autograd.grad(loss, [zeros[name] for name in modules])
    return {
        name: (
            captured[name].detach()[batch.rows, batch.columns].float(),
            gradient[batch.rows, batch.columns].float(),
        )
        for name, gradient in zip(modules, gradients, strict=True)
    }
