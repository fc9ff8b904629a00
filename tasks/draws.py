"""Draws new targets, neighbours and rivals of fact tasks from the rows of their table, reproducibly.

Tables of at most :data:`SORTED_ROWS` rows are drawn from by the digests of all pairs of a row and a candidate. For
larger tables this would take hours. Their candidates are put in the order of their own digests once, and each row takes
the first acceptable ones from a position that depends on the row. The time is then proportional to the number of rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.schema import digest
from ..benchmark.scoring.answers import normalise
from .sampling import HashOrderedPool
from .tables import Row

SORTED_ROWS = 600
"""Maximum number of rows of a table whose pairs are sorted. The draws of all built-in tasks depend on it."""

T = TypeVar("T")


class _SortedPool(Generic[T]):
    """Items that each draw sorts by a digest of the draw's key and the item's name."""

    def __init__(self, items: Iterable[T], name: Callable[[T], str]) -> None:
        self._items, self._name = list(items), name

    def pick(self, key: str, count: int, accept: Callable[[T], bool]) -> list[T]:
        """Return the first ``count`` accepted items; fewer if the pool has fewer."""
        accepted = [item for item in self._items if accept(item)]
        return sorted(accepted, key=lambda item: digest([key, self._name(item)]))[:count]


class FactDraws:
    """The draws of a fact task.

    Args:
        spec: the section ``facts`` of the definition.
        rows: the rows of its tables.
    """

    def __init__(self, spec: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self._spec, self._rows = spec, rows
        self._facts = Facts(spec, rows)
        self._rivals: dict[str, HashOrderedPool[str] | _SortedPool[str]] = {}

    def neighbours(self, row: Row, new: str) -> list[Row]:
        """Return the rows of other subjects for the neighbourhood probes of a row.

        Subjects of which the new target is true are excluded, and so is the row's own subject in other rows. With
        ``same_object``, the subjects share the true answer (Meng et al. 2022). A bijective relation has no such
        subjects; without ``same_object``, the subjects have other answers.
        """
        i, column = self._spec["id"], self._spec["object"]
        probe_spec = self._spec["probes"]["neighbourhood"]
        own, same = row[column], probe_spec.get("same_object", False)
        facts, subject = self._facts, self._facts.subject_of_row[row[i]]
        names = facts.names_of_object.get(new, set())
        pool = self._pools.get(own if same else None)
        if pool is None:
            return []

        def accept(other: Row) -> bool:
            if other[i] == row[i] or (other[column] == own) != same:
                return False
            other_subject = facts.subject_of_row[other[i]]
            return other_subject != subject and names.isdisjoint(facts.names_of_subject[other_subject])

        return pool.pick(row[i], probe_spec["count"], accept)

    def rival(self, row: Row, column: str) -> str | None:
        """Return another subject's answer in a column, or None if all rows with an answer have that of the row."""
        if column not in self._rivals:
            values = sorted({other.get(column) or "" for other in self._rows} - {""})
            self._rivals[column] = self._pool(values, lambda value: value)
        picked = self._rivals[column].pick(row[self._spec["id"]], 1, lambda value: value != row.get(column))
        return picked[0] if picked else None

    @cached_property
    def _pools(self) -> dict[str | None, HashOrderedPool[Row] | _SortedPool[Row]]:
        """The candidates of neighbourhood probes: all under None, or under their object with ``same_object``."""
        probe_spec, groups = self._spec["probes"]["neighbourhood"], dict[str | None, list[Row]]()
        for row in self._rows:
            if "among" not in probe_spec or row.get(probe_spec["among"]) == "1":
                group = row[self._spec["object"]] if probe_spec.get("same_object", False) else None
                groups.setdefault(group, []).append(row)
        return {group: self._pool(rows, lambda row: row[self._spec["id"]]) for group, rows in groups.items()}

    def _pool(self, items: Sequence[T], name: Callable[[T], str]) -> HashOrderedPool[T] | _SortedPool[T]:
        return (_SortedPool if len(self._rows) <= SORTED_ROWS else HashOrderedPool)(items, name)


class Facts:
    """The names of the objects of a table, normalised as answers are.

    Args:
        spec: the section ``facts`` of the definition.
        rows: the rows of its tables.

    Attributes:
        names_of_object: for each object, its own name and its aliases in all rows.
        names_of_subject: for each normalised subject, the names of its objects in all rows.
        subject_of_row: for each id, the normalised subject.
        normalised_object: for each object, its normalised name.
    """

    def __init__(self, spec: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self.names_of_object: dict[str, set[str]] = {}
        self.names_of_subject: dict[str, set[str]] = {}
        self.subject_of_row = {row[spec["id"]]: normalise(row[spec["subject"]]) for row in rows}
        self.normalised_object = {row[spec["object"]]: normalise(row[spec["object"]]) for row in rows}
        for row in rows:
            names = answer_names(spec, row)
            self.names_of_object.setdefault(row[spec["object"]], set()).update(names)
            self.names_of_subject.setdefault(self.subject_of_row[row[spec["id"]]], set()).update(names)


def new_targets(spec: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """Return the new target of each row by id.

    If ``spec["new"]`` is a column, the new target is its cell. Otherwise it is drawn with the given seed from the
    objects of all rows, or of the rows with "1" in the column ``among``. Draws are balanced: each object is used about
    equally often. A drawn target is not true of the row's subject in any row, under any of its names, and is not a
    part of the subject.

    Raises:
        KnbenchError: a row has no other object that it can be changed to.
    """
    if isinstance(spec["new"], str):
        return {row[spec["id"]]: row.get(spec["new"], "") for row in rows}
    seed, among = spec["new"]["seed"], spec["new"].get("among")
    objects = dict.fromkeys(row[spec["object"]] for row in rows if among is None or row.get(among) == "1")
    ordered = sorted(rows, key=lambda row: digest([seed, row[spec["id"]]]))
    draw = _LeastUsed(objects, seed) if len(rows) <= SORTED_ROWS else _Rotation(objects, seed)
    facts = Facts(spec, rows)
    return {row[spec["id"]]: _draw_target(spec, row, draw, facts) for row in ordered}


def _draw_target(spec: Mapping[str, Any], row: Row, draw: _LeastUsed | _Rotation, facts: Facts) -> str:
    subject = facts.subject_of_row[row[spec["id"]]]
    true = facts.names_of_subject[subject]

    def accept(target: str) -> bool:
        return facts.names_of_object[target].isdisjoint(true) and facts.normalised_object[target] not in subject

    target = draw.next(row[spec["id"]], accept)
    if target is None:
        raise KnbenchError(
            f"id '{row[spec['id']]}' has no other object to change '{row[spec['object']]}' to; add rows with other "
            "objects"
        )
    return target


class _LeastUsed:
    """Draws, among the accepted objects that were drawn least often, the first by a digest of key and object."""

    def __init__(self, objects: Iterable[str], seed: int) -> None:
        self._uses, self._seed = dict.fromkeys(objects, 0), seed

    def next(self, key: str, accept: Callable[[str], bool]) -> str | None:
        options = [o for o in self._uses if accept(o)]
        if not options:
            return None
        fewest = min(self._uses[o] for o in options)
        least = [o for o in options if self._uses[o] == fewest]
        target = min(least, key=lambda o: digest([self._seed, key, o]))
        self._uses[target] += 1
        return target


class _Rotation:
    """Draws the accepted object whose last draw is the longest ago. Before their first draw, a digest orders them."""

    def __init__(self, objects: Iterable[str], seed: int) -> None:
        self._queue = deque(sorted(objects, key=lambda o: digest([seed, o])))

    def next(self, key: str, accept: Callable[[str], bool]) -> str | None:
        del key
        skipped: list[str] = []
        target = None
        while self._queue and target is None:
            candidate = self._queue.popleft()
            if accept(candidate):
                target = candidate
            else:
                skipped.append(candidate)
        self._queue.extendleft(reversed(skipped))
        if target is not None:
            self._queue.append(target)
        return target


def answer_names(spec: Mapping[str, Any], row: Row) -> set[str]:
    """Return the names of a row's object, normalised."""
    return {normalise(name) for name in (row[spec["object"]], *aliases(spec, row))}


def aliases(spec: Mapping[str, Any], row: Row) -> tuple[str, ...]:
    """Return the other spellings of a row's object: the parts of a cell that ``|`` separates."""
    if "aliases" not in spec:
        return ()
    return tuple(filter(None, (alias.strip() for alias in row.get(spec["aliases"], "").split("|"))))
