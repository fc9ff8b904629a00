"""Divergences between the next-token distributions of the unedited model and of the model as it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.precision import in_float64

ROWS = 4
"""Rows whose divergences are computed together. The intermediate values of more rows do not fit into a CPU's cache."""


def divergences(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(before || now) and the Jensen-Shannon divergence of rows of distributions, in nats.

    The sums are taken in float64, KL of distributions that are normalised again. Tokens of probability 0 contribute
    nothing. Equal rows have divergence 0 exactly.

    Args:
        before: log-probabilities of shape (rows, vocabulary).
        now: log-probabilities of shape (rows, vocabulary).

    Returns:
        Two tensors of shape (rows,), in float64.

    Raises:
        FloatingPointError: a divergence is not finite, because a token has probability 0 in ``now`` only.
    """
    parts = [_divergences(*part) for part in zip(torch.split(before, ROWS), torch.split(now, ROWS), strict=True)]
    kl, js = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    if not bool(kl.isfinite().all()):
        raise FloatingPointError("the divergence from the unedited model is not a number")
    return kl.clamp_min(0), js.clamp(0, math.log(2))


def _divergences(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    p, q = in_float64(before), in_float64(now)
    p_share, q_share = p.exp(), q.exp()
    mean = torch.logaddexp(p, q) - math.log(2)  # exactly p where both are equal
    # In float32 the sums of both deviate from 1, by which KL would deviate from 0 even for equal models.
    p_sum, q_sum = p_share.sum(-1), q_share.sum(-1)
    kl = _relative_entropy(p_share, p, q) / p_sum + (q_sum / p_sum).log()
    js = (_relative_entropy(p_share, p, mean) + _relative_entropy(q_share, q, mean)) / 2
    return kl, js


def _relative_entropy(share: Tensor, log_share: Tensor, other: Tensor) -> Tensor:
    """Return the sums of ``share * (log_share - other)``, in which tokens of probability 0 contribute nothing."""
    terms = (log_share - other).mul_(share)
    if not bool((share > 0).all()):
        terms = torch.where(share > 0, terms, 0.0)
    return terms.sum(-1)


def divergence(before: Tensor, now: Tensor) -> tuple[float, float]:
    """Return both divergences of one pair of distributions, of shape (vocabulary,); see :func:`divergences`."""
    kl, js = divergences(before[None], now[None])
    return float(kl), float(js)
