"""A small network that maps inputs and output gradients of linear modules to those of their update.

Mitchell et al. 2022, "Fast Model Editing at Scale" (ICLR), section 3. For a row x of normalised input and gradient,
each of two layers computes y = x + max(0, s_l (U V x + b) + o_l), with vectors s_l and o_l of the module l. Modules
of one shape share U, V and b. U starts at zero, so that the network starts as the identity. The argument of the
maximum is then 0 everywhere: its derivative there must be 1, otherwise the network never changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LAYERS = 2

Parameters = dict[str, Tensor]
"""Parameters of the network by name."""


def initial(modules: Mapping[str, tuple[int, int]], rank: int, rate: float, seed: int) -> Parameters:
    """Return the parameters of a network that is the identity.

    Args:
        modules: input and output size of each module.
        rank: rank of U V; larger ranks than the number of features are reduced to it.
        rate: the step size eta of each module, which is stored as its logarithm.
        seed: seed of V.
    """
    generator = torch.Generator().manual_seed(seed)
    found: Parameters = {}
    for shape in sorted(set(modules.values())):
        size = sum(shape)
        low = min(rank, size)
        for n in range(LAYERS):
            found[f"{_label(shape)} {n} u"] = torch.zeros(size, low)
            # Rows of unit variance would give outputs of the size of the features' number.
            found[f"{_label(shape)} {n} v"] = torch.randn(low, size, generator=generator) / math.sqrt(size)
            found[f"{_label(shape)} {n} b"] = torch.zeros(size)
    for name, shape in modules.items():
        for n in range(LAYERS):
            found[f"{name} {n} s"] = torch.ones(sum(shape))
            found[f"{name} {n} o"] = torch.zeros(sum(shape))
        found[f"{name} rate"] = torch.tensor(math.log(rate))
    return found


def update(parameters: Parameters, name: str, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Return D = eta sum_t g~_t h~_t^T of a module, (out, in); the edited weight is W - D.

    Args:
        parameters: the network.
        name: name of the module.
        inputs: normalised inputs h, (row, in).
        gradients: normalised output gradients g, (row, out).
    """
    x = torch.cat([inputs, gradients], dim=1)
    shape = _label((inputs.shape[1], gradients.shape[1]))
    for n in range(LAYERS):
        u, v, b = (parameters[f"{shape} {n} {part}"] for part in "uvb")
        hidden = parameters[f"{name} {n} s"] * (x @ v.T @ u.T + b) + parameters[f"{name} {n} o"]
        x = x + hidden.clamp(min=0)  # the derivative of clamp at 0 is 1, that of relu is 0
    h, g = x[:, : inputs.shape[1]], x[:, inputs.shape[1] :]
    change: Tensor = parameters[f"{name} rate"].exp() * g.T @ h
    return change


def decoupled_gradient(
    parameters: Parameters, rows: Mapping[str, tuple[Tensor, Tensor]], outer: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the gradient of an outer loss with respect to the network, in the order of its parameters.

    Tan et al. 2024, "Massive Editing for Large Language Models via Meta Learning" (ICLR), section 4: with the gradient
    G_l of the outer loss at the edited weights W_l - D_l, this is the gradient of -sum <G_l, D_l>.

    Args:
        parameters: the network; each tensor requires a gradient.
        rows: normalised inputs and gradients of each module.
        outer: G_l of each module, (out, in).
    """
    total = torch.stack([-(outer[name] * update(parameters, name, *pair)).sum() for name, pair in rows.items()]).sum()
    found: Sequence[Tensor | None] = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return [
        torch.zeros_like(p) if gradient is None else gradient
        for p, gradient in zip(parameters.values(), found, strict=True)
    ]


def _label(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
