"""Running means and variances of the inputs and output gradients of linear modules, over a sequence of edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...benchmark.editing import State

Variance = Literal["biased", "unbiased"]

EPSILON = torch.finfo(torch.float32).eps
"""Added to standard deviations, as in the released code."""

MIN_EIGENVALUE = 1e-6
"""Eigenvalues of a covariance are raised to this value before it is inverted, as in the released code."""


@dataclass(frozen=True)
class RunningStatistics:
    """Statistics of rows x = [h; g], the input and the output gradient of a module, float64. They are immutable.

    Attributes:
        count: number of rows n.
        mean: mean of the rows, (in + out,).
        squares: sum of the squared deviations from the mean, (in + out,).
        outer: sum of the outer products of the deviations of g, (out, out), or None if it is not needed.
    """

    count: int
    mean: Tensor
    squares: Tensor
    outer: Tensor | None

    @classmethod
    def empty(cls, inputs: int, outputs: int, *, with_outer: bool) -> RunningStatistics:
        """Return the statistics of no rows, for a module of some input and output size."""
        zeros = torch.zeros(inputs + outputs, dtype=torch.float64)
        outer = torch.zeros(outputs, outputs, dtype=torch.float64) if with_outer else None
        return cls(0, zeros, zeros, outer)

    def add(self, inputs: Tensor, gradients: Tensor, variance: Variance) -> RunningStatistics:
        """Return the statistics with more rows.

        With ``biased``, they equal those of all rows at once. With ``unbiased``, the squared deviations of the new rows
        are multiplied by b / (b - 1), as in the released code of UltraEdit, which depends on how rows are grouped. A
        single row has no deviation from its own mean.

        Args:
            inputs: h, (b, in).
            gradients: g, (b, out).
            variance: variance of the new rows that enters the sum of squares.
        """
        rows = torch.cat([inputs, gradients], dim=1).to(self.mean)
        new = len(rows)
        total = self.count + new
        mean = rows.mean(0)
        delta = mean - self.mean
        own = ((rows - mean) ** 2).sum(0)
        if variance == "unbiased" and new > 1:
            own = own * new / (new - 1)
        shared = self.count * new / total
        outer = self.outer
        if outer is not None:
            centred, between = (rows - mean)[:, inputs.shape[1] :], delta[inputs.shape[1] :]
            outer = outer + centred.T @ centred + shared * torch.outer(between, between)
        return RunningStatistics(total, self.mean + new / total * delta, self.squares + own + shared * delta**2, outer)

    def normalise(self, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return (h - mean) / std and (g - mean) / std, float64, with the standard deviation of each feature."""
        rows = torch.cat([inputs, gradients], dim=1).to(self.mean)
        std = (self.squares / (self.count - 1 + EPSILON)).sqrt()
        rows = (rows - self.mean) / (std + EPSILON)
        return rows[:, : inputs.shape[1]], rows[:, inputs.shape[1] :]

    @property
    def can_whiten(self) -> bool:
        """Whether there are enough rows to estimate the covariance of g: n > out + 1."""
        return self.outer is not None and self.count > len(self.outer) + 1

    def whiten(self, gradients: Tensor) -> Tensor:
        """Return (g - mean) Sigma^(-1/2) with Sigma = S / (n - out - 1), float64.

        Args:
            gradients: g, (b, out).

        Raises:
            ValueError: there are too few rows, see :attr:`can_whiten`.
        """
        if self.outer is None or not self.can_whiten:
            raise ValueError(f"{self.count} rows are too few for the covariance of the gradients")
        size = len(self.outer)
        values, vectors = torch.linalg.eigh(self.outer / (self.count - size - 1))
        root = (vectors * values.clamp(min=MIN_EIGENVALUE) ** -0.5) @ vectors.T
        whitened: Tensor = (gradients.to(self.mean) - self.mean[-size:]) @ root
        return whitened


def as_state(statistics: Mapping[str, RunningStatistics]) -> State:
    """Return the statistics, by the shape of the modules that share them, as the state of an edit."""
    tensors, counts = {}, {}
    for shape, found in statistics.items():
        counts[shape] = found.count
        tensors.update({f"{shape}/mean": found.mean, f"{shape}/squares": found.squares})
        if found.outer is not None:
            tensors[f"{shape}/outer"] = found.outer
    return State(tensors, {"counts": counts})


def from_state(state: State) -> dict[str, RunningStatistics]:
    """Return the statistics in a state that :func:`as_state` made."""
    tensors = state.tensors
    return {
        shape: RunningStatistics(
            count, tensors[f"{shape}/mean"], tensors[f"{shape}/squares"], tensors.get(f"{shape}/outer")
        )
        for shape, count in state.settings["counts"].items()
    }
