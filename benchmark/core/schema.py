"""The plain values that flow through a run: a task's cases, their edit requests and their probes.

Nothing here knows of models, token ids or scores. See ``docs`` in the README for the flow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, overload

ProbeKind = Literal["completion", "minimal_pair", "generation"]
Expectation = Literal["new", "unchanged", "gone"]
TaskKind = Literal["fact", "linguistic"]

JsonObject = Mapping[str, Any]

SLOT = "{}"


@dataclass(frozen=True)
class Support:
    """A prompt that an editor may read beside the edited one, with what rightly continues it.

    Attributes:
        prompt: the text up to the target.
        target: what continues it before the edit.
        suffix: what follows the target in its sentence; a masked model reads it too.
    """

    prompt: str
    target: str
    suffix: str = "."


@dataclass(frozen=True)
class EditRequest:
    """One edit in words: after it, ``prompt`` about ``subject`` shall continue with ``target_new``.

    Attributes:
        prompt: the statement up to the target, with one ``{}`` where the subject stands.
        subject: the entity (facts) or the cue word (phenomena) that the edit is keyed on.
        target_new: what the model shall say, without the space that precedes it.
        target_true: what it should say before the edit.
        support: other prompts on the same fact or phenomenon, for methods that search over several. No probe of the
            case asks any of them: what an editor has seen is no test of it.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str
    support: tuple[Support, ...] = ()

    def __post_init__(self) -> None:
        if self.prompt.count(SLOT) != 1:
            raise ValueError(f"an edit prompt needs exactly one {{}} for its subject: {self.prompt!r}")
        if not self.subject or not self.target_new:
            raise ValueError(f"an edit needs a subject and a new target: {self!r}")
        if self.target_new == self.target_true:
            raise ValueError(f"the new target equals the true one: {self!r}")

    @property
    def text(self) -> str:
        """The prompt with its subject filled in."""
        return self.prompt.replace(SLOT, self.subject, 1)


@dataclass(frozen=True)
class Probe:
    """One question to the model, asked before and after the edit.

    Attributes:
        criterion: the criterion that the probe is evidence for.
        kind: ``completion`` asks for what follows ``prompt``; ``minimal_pair`` compares two whole sentences
            (``prompt`` is then empty); ``generation`` lets the model write on after ``prompt`` (target and rival are
            then empty).
        prompt: the text that the targets continue.
        target: the answer that the probe is about.
        rival: the answer that ``target`` is weighed against.
        expect: ``new``: after the edit ``target`` is the answer; ``gone``: ``target`` is no longer the answer;
            ``unchanged``: the model behaves as before, ``target`` being the true answer.
        aliases: other spellings of ``target`` that count in generated text.
        suffix: what follows the target in its sentence. A masked model reads it too; a causal one is asked before it.
    """

    criterion: str
    kind: ProbeKind
    prompt: str
    target: str
    rival: str
    expect: Expectation
    aliases: tuple[str, ...] = ()
    suffix: str = "."


@dataclass(frozen=True)
class Case:
    """An edit request with its probes: the unit of running, of resuming and of statistics."""

    id: str
    request: EditRequest
    probes: tuple[Probe, ...]
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return asdict(self)


T = TypeVar("T")


class LazySequence(Sequence[T]):
    """A sequence whose items are made when they are first needed; it is pickled as a tuple.

    Args:
        make: returns the items.
    """

    def __init__(self, make: Callable[[], Iterable[T]]) -> None:
        self._make = make

    @cached_property
    def _items(self) -> tuple[T, ...]:
        return tuple(self._make())

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[tuple[T, ...]]]:
        return tuple, (self._items,)


@dataclass(frozen=True)
class Task:
    """A standardized task: data and provenance, no model and no scores.

    ``cases`` holds the same cases, in the same order, on every machine.
    """

    name: str
    version: int
    kind: TaskKind
    title: str
    description: str
    licence: str
    citation: str
    source: str
    relation: str
    criteria: tuple[str, ...]
    cases: Sequence[Case] = field(repr=False)
    pairs: Sequence[JsonObject] = field(default=(), repr=False)
    """A phenomenon's minimal pairs in the form of BLiMP's JSONL; none for facts."""

    def content_hash(self) -> str:
        """Return a sha256 over every case and minimal pair, which changes exactly when the task's content does."""
        return digest([[case.to_json() for case in self.cases], [dict(pair) for pair in self.pairs]])

    def card(self) -> dict[str, Any]:
        """Return the task's provenance as plain JSON values."""
        plain = {k: v for k, v in self.__dict__.items() if k not in ("cases", "pairs")}
        return {**plain, "criteria": list(self.criteria)}


def digest(value: Any) -> str:
    """Return the sha256 of a JSON value, independent of key order, platform and hash seed."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all ``parts`` and on nothing else (unlike ``hash``)."""
    return int(digest([str(part) for part in parts])[:15], 16)
