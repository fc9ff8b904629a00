"""Kronecker factors of the loss's curvature at linear modules, and projections on directions of low curvature.

For y = W h with the output gradient g = dL/dy, the factors are A = E[h h^T] and B = E[g g^T] over tokens (K-FAC with
the empirical Fisher matrix). The curvature of a direction D is approximately tr(B D A D^T).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.precision import in_float64
from .background import text_gradients
from .target_gradients import target_gradients

FORWARD_REQUESTS = 32
"""Number of requests per pass."""


@dataclass(frozen=True)
class Curvature:
    """Eigendecompositions A = U_A diag(a) U_A^T and B = U_B diag(b) U_B^T of a module, float32.

    Attributes:
        input_values: a, (in,), not negative.
        input_vectors: U_A, (in, in).
        output_values: b, (out,), not negative.
        output_vectors: U_B, (out, out).
    """

    input_values: Tensor
    input_vectors: Tensor
    output_values: Tensor
    output_vectors: Tensor

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor) -> Curvature:
        """Decompose A, (in, in), and B, (out, out), in float64."""
        parts = []
        for matrix in (inputs, outputs):
            values, vectors = torch.linalg.eigh(in_float64(matrix))
            parts += [values.clamp(min=0).float().to(matrix.device), vectors.float().to(matrix.device)]
        return cls(*parts)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return A and B, float64."""
        pairs = ((self.input_vectors, self.input_values), (self.output_vectors, self.output_values))
        a, b = ((in_float64(vectors) * in_float64(values)) @ in_float64(vectors).T for vectors, values in pairs)
        return a, b

    def allowed(self, energy: float) -> Tensor:
        """Return which directions have low curvature, Q of shape (out, in), boolean.

        The products P_ij = b_i a_j are sorted in descending order. tau is the product at which their cumulative sum
        first reaches a share of the total. Directions with P_ij < tau are allowed.

        Args:
            energy: the share, from 0 to 1. With 1, no direction is allowed.
        """
        products = torch.outer(in_float64(self.output_values), in_float64(self.input_values))
        if energy >= 1:
            return torch.zeros_like(products, dtype=torch.bool)
        ordered = products.flatten().sort(descending=True).values
        sums = ordered.cumsum(0)
        index = int(torch.searchsorted(sums, energy * sums[-1]).clamp(max=len(sums) - 1))
        return products < ordered[index]

    def project(self, gradient: Tensor, allowed: Tensor) -> Tensor:
        """Return U_B (Q * (U_B^T G U_A)) U_A^T, (out, in).

        Args:
            gradient: G, (out, in).
            allowed: Q, (out, in).
        """
        left, right = self.output_vectors.to(gradient.dtype), self.input_vectors.to(gradient.dtype)
        projected: Tensor = left @ (allowed * (left.T @ gradient @ right)) @ right.T
        return projected


@dataclass(frozen=True)
class Moments:
    """Sums of h h^T, (in, in), and g g^T, (out, out), over tokens, float64, and the number of tokens."""

    inputs: Tensor
    outputs: Tensor
    tokens: int

    def curvature(self) -> Curvature:
        """Return the decomposition of the means."""
        return Curvature.of(self.inputs / self.tokens, self.outputs / self.tokens)


def moments(
    lm: LanguageModel, modules: Mapping[str, nn.Module], rows: Tensor, requests: Sequence[EditRequest]
) -> dict[str, Moments]:
    """Return the moments of modules over texts and over the target positions of requests, on the model as it is.

    g is the gradient of the sum of the negative log-likelihoods of a text's tokens, or of the target's tokens.

    Args:
        lm: a causal model.
        modules: linear modules by name.
        rows: token ids of the texts, (text, length); there may be none.
        requests: the requests; there may be none.

    Raises:
        KnbenchError: the model is masked.
        ValueError: a target cannot be tokenised after its prompt.
    """
    sums: dict[str, list[Tensor]] = {name: [torch.zeros((), dtype=torch.float64)] * 2 for name in modules}
    tokens = 0
    size = FORWARD_REQUESTS
    groups = (requests[i : i + size] for i in range(0, len(requests), size))
    texts = text_gradients(lm, rows, modules) if len(rows) else ()
    for batch in chain(texts, (target_gradients(lm, group, modules, "sum") for group in groups)):
        for name in modules:
            sums[name] = [total + in_float64(x.T @ x) for total, x in zip(sums[name], batch[name], strict=True)]
        tokens += len(batch[next(iter(modules))][0])
    return {name: Moments(inputs, outputs, tokens) for name, (inputs, outputs) in sums.items()}
