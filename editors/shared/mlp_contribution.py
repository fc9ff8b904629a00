"""From a wanted change of the residual stream to the change of an MLP output that causes it.

A block adds to the residual stream the contribution of its MLP. In most architectures, this is the MLP's output m
itself. Some scale it; others pass it through an RMS norm with a gain g (Gemma 2 and 3, OLMo 2 and 3):

    N(m) = g * m / rms(m),    rms(m) = sqrt(mean(m^2)).

The norm removes the length of m. The contributions that an output can have are then the points g * u with rms(u) = 1,
an ellipsoid. Another wanted contribution t cannot be reached. The nearest point of the ellipsoid is, with a Lagrange
multiplier mu,

    u = g * t / (g^2 + mu),    mu > -min(g^2) such that rms(u) = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...benchmark.models.language_model import LanguageModel
from .value_vectors import EditSite

BISECTIONS = 200


def value_site(lm: LanguageModel, layer: int) -> EditSite:
    """Return the output that methods which spread a value over several layers optimise in the last of them.

    It is the block's output (Meng et al. 2023), or that of the MLP if a norm follows it, through which most block
    outputs could not be reached.
    """
    return "block" if lm.mlp_norm(layer) is None else "mlp"


def contribution(lm: LanguageModel, layer: int, outputs: Tensor) -> Tensor:
    """Return what MLP outputs of a layer add to the residual stream, (n, d).

    Args:
        lm: the model.
        layer: the layer.
        outputs: outputs of the layer's MLP, (n, d).
    """
    norm = lm.mlp_norm(layer)
    if norm is None:
        return lm.mlp_scale * outputs
    with torch.no_grad():
        added: Tensor = lm.mlp_scale * norm(outputs)
    return added


def output_changes(lm: LanguageModel, layer: int, outputs: Tensor, changes: Tensor) -> Tensor:
    """Return the changes of MLP outputs with which their contributions change as wanted, as far as an output can.

    The contributions become the nearest ones that outputs can have. The outputs keep their length.

    Args:
        lm: a model with a norm between the layer's MLP and the residual stream.
        layer: the layer.
        outputs: outputs of the layer's MLP, (n, d), float32.
        changes: wanted changes of the contributions, (n, d), float32.
    """
    gain = contribution(lm, layer, torch.ones_like(outputs[:1]))[0]
    wanted = contribution(lm, layer, outputs) + changes
    length = outputs.double().pow(2).mean(-1, keepdim=True).sqrt()
    return (length * nearest_direction(gain, wanted)).to(outputs.dtype) - outputs


def nearest_direction(gain: Tensor, wanted: Tensor) -> Tensor:
    """Return the u with rms(u) = 1 for which gain * u is nearest to a wanted vector, (n, d), float64.

    Args:
        gain: g, (d,), without zeros.
        wanted: t, (n, d).
    """
    gain, wanted = gain.double(), wanted.double()
    square, product = gain.pow(2), gain * wanted

    def direction(multiplier: Tensor) -> Tensor:
        return product / (square + multiplier)

    # rms(u) falls from infinity to 0 as mu grows. At the upper end, |u| <= |g t| / mu, so that rms(u) <= 1.
    low = (-square.min()).expand(len(wanted), 1)
    high = product.pow(2).mean(-1, keepdim=True).sqrt()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        long = direction(middle).pow(2).mean(-1, keepdim=True) > 1
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    return direction(high)
