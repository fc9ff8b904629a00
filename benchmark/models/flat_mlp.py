"""MLPs of blocks that flatten batch and position.

Such a block reshapes its hidden states to (batch * position, d) in front of the MLP, and back after it. The hooks below
give the modules of the MLP tensors of shape (batch, position, features) as in other families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def keep_batch_dimension(attention: nn.Module, first: nn.Module, last: nn.Module) -> None:
    """Pass (batch, position, features) from the first to the last module of an MLP that is called with a matrix.

    Args:
        attention: the attention module of the block, which is called before the MLP with (batch, position, d).
        first: the first projection of the MLP.
        last: its output projection. The block receives its output as a matrix, after all other hooks of the module.
    """
    shape: list[torch.Size] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state: Tensor = args[0] if args else kwargs["hidden_states"]
        shape[:] = [state.shape[:2]]

    def unflatten(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        state: Tensor = args[0]
        return args if state.dim() == 3 else (state.reshape(*shape[0], state.shape[-1]), *args[1:])

    def flatten_last(module: nn.Module, _: tuple[Any, ...]) -> None:
        def flatten(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            handle.remove()
            return output if output.dim() == 2 else output.flatten(0, 1)

        handle = module.register_forward_hook(flatten)  # registered in each pass: the last hook runs last

    attention.register_forward_pre_hook(record, with_kwargs=True)
    first.register_forward_pre_hook(unflatten)
    last.register_forward_pre_hook(flatten_last)
