"""Sampling by hash, which gives the same items on all machines and all versions of Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..benchmark.core.schema import derived_seed

T = TypeVar("T")


@dataclass(frozen=True)
class HashSampler:
    """Samples by hash.

    Attributes:
        seed: samplers with different seeds draw independently.
    """

    seed: int

    def sample(self, items: Sequence[T], count: int, *key: object) -> list[T]:
        """Draw ``count`` items without replacement, or all items if there are fewer."""
        pool = list(items)
        numbers = (derived_seed(self.seed, *key, n) for n in range(min(count, len(pool))))
        return [pool.pop(number % len(pool)) for number in numbers]
