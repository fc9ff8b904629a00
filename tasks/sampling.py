"""Sampling by hash, which gives the same items on all machines and all versions of Python."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..benchmark.core.schema import derived_seed, digest

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


class HashOrderedPool(Generic[T]):
    """Items in the order of the digests of their names, from which each case draws a reproducible selection.

    A draw starts at a position that depends on the key alone and wraps around at the end. Sorting all items for each
    case by a digest of item and case would need n^2 digests instead of n.
    """

    def __init__(self, items: Iterable[T], name: Callable[[T], str]) -> None:
        pairs = sorted(((digest(name(item)), item) for item in items), key=lambda pair: pair[0])
        self._digests = [pair[0] for pair in pairs]
        self._items = [pair[1] for pair in pairs]

    def pick(self, key: str, count: int, accept: Callable[[T], bool]) -> list[T]:
        """Return the first ``count`` accepted items from the position of ``key`` on; fewer if the pool has fewer."""
        start = bisect(self._digests, digest(["pick", key]))
        picked: list[T] = []
        for position in range(start, start + len(self._items)):
            item = self._items[position % len(self._items)]
            if len(picked) == count:
                break
            if accept(item):
                picked.append(item)
        return picked
