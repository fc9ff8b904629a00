"""Limits of the texts in records of a submission: their length, and characters that change what a reader sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..core.printable import forbidden_character, printable
from ..core.records import CheckpointLine, DriftLine, Failure, Record

MAX_TEXT_LENGTH = 20_000
MAX_NAME_LENGTH = 200


def text_flaw(
    records: Sequence[Record], checkpoints: Sequence[CheckpointLine] = (), drift: Sequence[DriftLine] = ()
) -> str | None:
    """Return the first text that is too long or has a forbidden character, or None.

    Texts that a model wrote may have any character. The site isolates and escapes them.
    """
    for number, record in enumerate(records):
        for place, text, limit in _texts_of(record):
            flaw = _flaw(text, limit, written="generated" in place)
            if flaw:
                return f"/{number}/{place} {flaw}"
    files: tuple[tuple[str, Sequence[CheckpointLine | DriftLine]], ...] = (
        ("checkpoint", checkpoints),
        ("drift", drift),
    )
    for label, lines in files:
        for number, line in enumerate(lines):
            for place, text, limit in _texts_of_line(line):
                flaw = _flaw(text, limit, written="generated" in place)
                if flaw:
                    return f"{label} line {number + 1}: {place} {flaw}"
    return None


def _flaw(text: str, limit: int, *, written: bool) -> str | None:
    if len(text) > limit:
        return f"has {len(text)} characters; at most {limit} are allowed"
    character = None if written else forbidden_character(text, line=limit == MAX_NAME_LENGTH)
    return (
        None if character is None else f"has the control or bidirectional character {character}: {printable(text)[:80]}"
    )


def _texts_of(record: Record) -> Iterator[tuple[str, str, int]]:
    """Yield the texts of a record with their place and maximum length."""
    yield "case_id", record.case_id, MAX_NAME_LENGTH
    yield "source", record.source, MAX_TEXT_LENGTH
    for request in (record.request, *(record.further or ())):
        for name in ("prompt", "subject", "target_new", "target_true"):
            yield f"request/{name}", getattr(request, name), MAX_TEXT_LENGTH
        for support in request.support:
            for name in ("prompt", "target", "suffix"):
                yield f"request/support/{name}", getattr(support, name), MAX_TEXT_LENGTH
    for name in (*record.edit.parameters, *record.edit.modules):
        yield "edit", name, MAX_NAME_LENGTH
    yield "edit/prefix", record.edit.prefix, MAX_TEXT_LENGTH
    for text in _strings(record.edit.diagnostics):
        yield "edit/diagnostics", text, MAX_TEXT_LENGTH
    yield from _texts_of_failure(record.failure)
    for position, probe in enumerate(record.probes):
        place = f"probes/{position}"
        yield f"{place}/criterion", probe.criterion, MAX_NAME_LENGTH
        for text in (probe.prompt, probe.target, probe.rival, probe.suffix, *probe.aliases):
            yield place, text, MAX_TEXT_LENGTH
        for observation in (probe.before, probe.after):
            if observation is not None:
                yield f"{place}/recalled", observation.recalled or "", MAX_TEXT_LENGTH
                for written in (observation.generated, observation.text, observation.top):
                    yield f"{place}/generated", written or "", MAX_TEXT_LENGTH


def _texts_of_line(line: CheckpointLine | DriftLine) -> Iterator[tuple[str, str, int]]:
    yield "case_id", line.case_id or "", MAX_NAME_LENGTH
    yield from _texts_of_failure(line.failure)
    if isinstance(line, CheckpointLine):
        for observation in line.after:
            if observation is not None:
                yield "recalled", observation.recalled or "", MAX_TEXT_LENGTH
                for text in (observation.generated, observation.text, observation.top):
                    yield "generated", text or "", MAX_TEXT_LENGTH
        return
    for task in line.tasks:
        yield "task", task.task, MAX_NAME_LENGTH
        yield "metric", task.metric, MAX_NAME_LENGTH


def _texts_of_failure(failure: Failure | None) -> Iterator[tuple[str, str, int]]:
    if failure is not None:
        yield "failure/type", failure.type, MAX_NAME_LENGTH
        yield "failure/message", failure.message, MAX_TEXT_LENGTH
        yield "failure/traceback", failure.traceback or "", MAX_TEXT_LENGTH


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts in JSON values, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
