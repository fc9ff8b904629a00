"""Types of the input of a run: tasks, cases, edit requests and probes.

The module is independent of models, token ids and scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, TypeVar, overload

ProbeKind = Literal["completion", "minimal_pair", "generation", "passages"]
Expectation = Literal["new", "unchanged", "gone"]
TaskKind = Literal["fact", "linguistic"]

JsonObject = Mapping[str, Any]

SLOT = "{}"


@dataclass(frozen=True)
class Support:
    """An additional prompt that an editor may read, with its correct continuation.

    Attributes:
        prompt: the text up to the target.
        target: the correct continuation before the edit.
        suffix: the text after the target in its sentence. Only masked models read it.
    """

    prompt: str
    target: str
    suffix: str = "."


@dataclass(frozen=True)
class EditRequest:
    """One edit in words: it makes ``target_new`` the continuation of ``prompt`` about ``subject``.

    Attributes:
        prompt: the statement up to the target, with one ``{}`` in place of the subject.
        subject: the entity (facts) or the cue word (phenomena) that the edit is keyed on. An empty string means that
            the edit has no subject; ``prompt`` then contains no ``{}``.
        target_new: the desired continuation, without the preceding space.
        target_true: the correct continuation before the edit. An empty string means that there is none, for example
            because the fact is new. The probes of the edit then have no rival.
        support: other prompts for the same fact or phenomenon, for methods that use several. They are disjoint from
            the prompts of the case's probes, because an editor must not be tested on prompts that it has read.
        relation: words of the relation from the subject to the answer, and of its inverse, for methods that edit both
            directions; a text is empty where the relation has no words, and None means that the task states none. They
            follow from the task's templates and are part of neither its content hash nor the records.

    Raises:
        ValueError: ``prompt`` is empty or does not contain exactly one ``{}`` for its subject, the new target is empty,
            or the targets are equal.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str
    support: tuple[Support, ...] = ()
    relation: tuple[str, str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.subject and self.prompt.count(SLOT) != 1:
            raise ValueError(f"an edit prompt needs exactly one {{}} for its subject: {self.prompt!r}")
        if not self.subject and SLOT in self.prompt:
            raise ValueError(f"an edit needs a subject for the {{}} of its prompt: {self.prompt!r}")
        if not self.prompt or not self.target_new:
            raise ValueError(f"an edit needs a prompt and a new target: {self!r}")
        if self.target_new == self.target_true:
            raise ValueError(f"the new target equals the true one: {self!r}")

    @property
    def text(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace(SLOT, self.subject, 1)


@dataclass(frozen=True)
class Probe:
    """One measurement of the model, made before and after the edit.

    Attributes:
        criterion: the criterion that the probe measures.
        kind: ``completion`` measures the continuation of ``prompt``. ``minimal_pair`` compares two whole sentences;
            ``prompt`` is empty. ``generation`` continues ``prompt`` freely; ``target`` and ``rival`` are empty.
            ``passages`` reads the set of passages that ``prompt`` names; ``target`` and ``rival`` are empty.
        prompt: the text that the targets continue.
        target: the answer that the probe is about.
        rival: the answer that ``target`` is compared with. An empty string means that the probe has no rival: the
            target alone is scored, and success, magnitude and flipped are undefined.
        expect: ``new``: after the edit ``target`` is the answer. ``gone``: ``target`` is no longer the answer.
            ``unchanged``: the model behaves as before, and ``target`` is the true answer.
        aliases: other spellings of ``target`` that are accepted in generated text.
        suffix: the text after the target in its sentence. Only masked models read it.
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
class Condition:
    """A question that the unedited model must answer, or else some probes of a case do not count.

    Attributes:
        prompt: the question.
        answers: the accepted answers, of which the greedy continuation must begin with one.
        probes: positions of the probes in the case.
    """

    prompt: str
    answers: tuple[str, ...]
    probes: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An edit request with its probes. A case is the unit of running, resuming and statistics.

    Attributes:
        id: unique within the task.
        request: the edit.
        probes: the measurements before and after the edit.
        source: origin of the data.
        further: other requests that are edited together with ``request``, as one edit.
        conditions: questions to the unedited model that decide which probes count.
    """

    id: str
    request: EditRequest
    probes: tuple[Probe, ...]
    source: str = ""
    further: tuple[EditRequest, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """All requests of the case."""
        return (self.request, *self.further)

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON values, without the words of its relation."""
        values = asdict(self)
        for request in (values["request"], *values["further"]):
            del request["relation"]
        # Most cases have neither, and content hashes are older than these fields.
        return {name: value for name, value in values.items() if value or name not in ("further", "conditions")}


T = TypeVar("T")


class LazySequence(Sequence[T]):
    """A sequence that creates its items on first access. It is pickled as a tuple.

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
    """A benchmark task: data and provenance, without models and scores.

    Attributes:
        name: the unique name of the task.
        version: incremented when the content changes.
        kind: ``fact`` or ``linguistic``.
        title: the full name.
        description: a description in one or more sentences.
        licence: the licence of the data.
        citation: the publication that the task follows.
        source: the origin of the data.
        relation: the relation or phenomenon that the task edits.
        criteria: the criteria that the probes measure.
        cases: the cases, in an order that is the same on every machine.
        pairs: minimal pairs of a linguistic task, with the keys of the JSONL files of BLiMP; empty for facts.
        warnings: findings about the data that do not prevent a run, one line each.
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
    warnings: Sequence[str] = field(default=(), repr=False)

    def content_hash(self) -> str:
        """Return a sha256 over all cases and minimal pairs."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        return digest([[case.to_json() for case in self.cases], [dict(pair) for pair in self.pairs]])

    def card(self) -> dict[str, Any]:
        """Return all attributes except cases, pairs and warnings, as JSON values."""
        hidden = ("cases", "pairs", "warnings")
        attributes = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}
        return {**attributes, "criteria": list(self.criteria)}


def digest(value: Any) -> str:
    """Return the sha256 of a JSON value, independent of key order, platform and ``PYTHONHASHSEED``."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(*parts: object) -> int:
    """Return a 60-bit seed that depends only on ``parts``. Unlike ``hash``, it is the same in every process."""
    return int(digest([str(part) for part in parts])[:15], 16)
