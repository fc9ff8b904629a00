"""Compares results with the definitions of boards: which table a result belongs to, and why it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.documents import Result
from ..core.records import Record
from ..core.schema import Probe, digest
from .boards import Board, BoardTable, Questions
from .documents import release_series

_OPTIONAL_KIND = "generation"
"""Kind of the probes that a run measures in addition if it is asked to; they do not decide about a board."""


@dataclass(frozen=True, eq=False)
class Place:
    """The relation of a result to a table of a board.

    Attributes:
        settings: first setting that differs from the table's, in words; empty if model, task and protocol are equal.
        questions: how the cases or probes differ from the table's, in words; empty if they are equal.
    """

    board: Board
    table: BoardTable
    settings: str = ""
    questions: str = ""

    @property
    def exact(self) -> bool:
        """Whether the result has the model, the task, the protocol, the cases and the probes of the table."""
        return not self.settings and not self.questions


def questions_digest(cases: Iterable[tuple[str, Sequence[Any], Sequence[Probe]]]) -> str:
    """Return a sha256 of the questions of a run, in the order of its cases.

    Args:
        cases: the id, the edit requests and the probes of each case. A probe that was left out, because the unedited
            model answers it wrongly, is missing.
    """
    return digest(
        [
            [case_id, _request(first), [*map(_probe, probes)], *([[*map(_request, further)]] if further else [])]
            for case_id, (first, *further), probes in cases
        ]
    )


def asked(records: Iterable[Record]) -> Questions:
    """Return the cases and probes of some records, which are in the order of the run."""
    listed = list(records)
    cases = [
        (
            record.case_id,
            (record.request, *(record.further or ())),
            [probe for probe in record.probes if probe.kind != _OPTIONAL_KIND],
        )
        for record in listed
    ]
    unmeasured = [record.case_id for record in listed if all(probe.before is None for probe in record.probes)]
    ids = tuple(record.case_id for record in listed)
    return Questions(len(listed), questions_digest(cases), ids, unmeasured=tuple(unmeasured))


def _request(request: Any) -> list[Any]:
    support = [[item.prompt, item.target, item.suffix] for item in request.support]
    return [request.prompt, request.subject, request.target_new, request.target_true, support]


def _probe(probe: Probe) -> list[Any]:
    texts = [probe.criterion, probe.kind, probe.prompt, probe.target, probe.rival, probe.expect, probe.suffix]
    return [*texts, list(probe.aliases)]


def places_of(result: Result, questions: Questions, boards: Mapping[str, Board]) -> list[Place]:
    """Return the tables of a result's model name, task and regime, with what differs from each.

    Args:
        result: the result.
        questions: its cases and probes, see :func:`asked`.
        boards: the definitions.
    """
    found = []
    for board in boards.values():
        for table in board.tables:
            if _is_about(result, board, table):
                settings = next(_settings(result, board, table), "")
                wanted = board.questions_of(table, result.model.name, result.task.name)
                flaw = _other_questions(questions, wanted)
                if not flaw and board.known_only and questions.unmeasured:
                    flaw = f"case {_short(questions.unmeasured[0])} has no observations"
                found.append(Place(board, table, settings, flaw))
    return found


def _is_about(result: Result, board: Board, table: BoardTable) -> bool:
    """Return whether a result has the model name, the task and the regime of a table, whatever its settings are."""
    protocol = result.protocol
    edits = {"single": None, "batch": protocol.batch_edits, "sequential": protocol.cases}[protocol.regime]
    return (
        (board.any_model or result.model.name in board.models)
        and result.task.name in table.tasks
        and (protocol.regime, edits) == (table.regime, table.edits)
    )


def _settings(result: Result, board: Board, table: BoardTable) -> Iterator[str]:
    """Yield the settings of a result that differ from those of a table."""
    task = board.tasks[result.task.name]
    model = board.models.get(result.model.name)
    protocol = result.protocol
    series = release_series(result.benchmark_version)
    if series != board.benchmark:
        yield f"version {series} of the benchmark, the board has {board.benchmark}"
    if result.task.version != task.version:
        yield f"version {result.task.version} of the task, the board has {task.version}"
    if result.task.content_hash != task.content:
        yield "other content of the task than the board's"
    if model is not None:
        for label, stored, wanted in (
            ("weights", result.model.weight_hash, model.weights),
            ("tokenizer", result.model.tokenizer_hash, model.tokenizer),
            ("configuration", result.model.config_hash, model.config),
            ("revision", result.model.revision, model.revision),
            ("use of the BOS token", protocol.bos_prepended, model.bos_prepended),
        ):
            if stored != wanted:
                yield f"another {label} of the model than the board's"
    settings = board.settings(table)
    for label, found, expected in (
        ("data type", result.model.dtype, board.dtype),
        ("seed", result.seed, board.seed),
        ("BOS policy", protocol.bos, board.bos),
        ("split", protocol.split, board.split),
        ("subset", protocol.subset or "full", table.subset),
        ("limit", protocol.limit, table.limit),
        ("known only", protocol.known_only, board.known_only),
        ("known by", protocol.known_by, board.known_by if board.known_only else None),
        ("new tokens", protocol.new_tokens, board.new_tokens),
        ("checkpoints", protocol.checkpoints, settings.resolved_checkpoints),
    ):
        if found != expected:
            yield f"{label}: {_words(found)}, the board has {_words(expected)}"


def _words(value: Any) -> str:
    """Return a setting in words.

    >>> _words(None), _words(False), _words((1, 2)), _words(16)
    ('none', 'no', '1|2', '16')
    """
    if isinstance(value, tuple):
        return "|".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def unlike(questions: Questions, others: Questions) -> str:
    """Return which case only one of two results on the same model has observations of, in words; empty without any.

    Whether the tokenizer can encode a case depends on the model alone, and a case without observations counts nowhere.
    """
    different = sorted({*questions.unmeasured} ^ {*others.unmeasured})
    if not different:
        return ""
    verb = "has no" if different[0] in questions.unmeasured else "has"
    return f"case {_short(different[0])} {verb} observations, unlike in other results of the model"


def _short(case_id: str) -> str:
    return f"'{case_id if len(case_id) <= 40 else case_id[:37] + '...'}'"


def _other_questions(found: Questions, wanted: Questions) -> str:
    """Return how cases and probes differ from those of a table, in words; empty if they are equal."""
    if found.digest == wanted.digest:
        return ""
    if wanted.ids:
        own, known = set(found.ids), set(wanted.ids)
        missing = next((case_id for case_id in wanted.ids if case_id not in own), None)
        extra = next((case_id for case_id in found.ids if case_id not in known), None)
        if missing is not None:
            return f"case {_short(missing)} of the board is missing"
        if extra is not None:
            return f"case {_short(extra)} is not on the board"
        if tuple(found.ids) != tuple(wanted.ids):
            return "the cases are in another order than on the board"
    elif found.cases != wanted.cases:
        return f"{found.cases} cases, the board has {wanted.cases}"
    return "other probes than on the board"
