"""Reads each result with its records once, and keeps what pages need of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.board_places import asked
from ..benchmark.results.runs import Run
from ..benchmark.results.trust import trust_of
from ..benchmark.scoring.edit_score import case_values
from ..benchmark.scoring.summary import case_table, in_order
from .cases import CaseLink, CaseView, ExtremeCases, case_view
from .entries import BOARD_MEASURES, EditSize, Entry, values_of
from .paths import facts_page


@dataclass(frozen=True)
class StoredCases:
    """The place of the cases of a result, which are too large to keep in memory.

    Attributes:
        file: a file that holds the cases of many results: to delete one file per result takes longer than to read it.
        start: position of the first byte.
        size: number of bytes.
    """

    file: Path
    start: int
    size: int

    @classmethod
    def append(cls, file: Path, cases: Sequence[CaseView]) -> StoredCases:
        """Store cases at the end of a file that no other process writes."""
        content = msgspec.msgpack.encode(cases)
        with file.open("ab") as opened:
            start = opened.tell()
            opened.write(content)
        return cls(file, start, len(content))

    def load(self) -> list[CaseView]:
        """Return the cases."""
        with self.file.open("rb") as opened:
            opened.seek(self.start)
            return msgspec.msgpack.decode(opened.read(self.size), type=list[CaseView])


@dataclass(frozen=True, eq=False)
class ReadResult:
    """A result that was read.

    Attributes:
        cases: its cases.
        extremes: its best and worst cases.
        example: a case that illustrates the task.
    """

    entry: Entry
    cases: StoredCases
    extremes: Sequence[CaseLink]
    example: CaseView


@dataclass(frozen=True, eq=False)
class ReadValues:
    """What was read of a result, without the result itself: a worker process sends it back.

    Attributes:
        about: the fields of an :class:`Entry` other than its result.
        cases: see :class:`ReadResult`; likewise ``extremes`` and ``example``.
    """

    about: Mapping[str, Any]
    cases: StoredCases
    extremes: Sequence[CaseLink]
    example: CaseView

    def of(self, run: Run) -> ReadResult:
        """Return the result with its values."""
        return ReadResult(Entry(run, **self.about), self.cases, self.extremes, self.example)


@dataclass(frozen=True)
class ResultReader:
    """Reads results.

    Attributes:
        status: see :func:`.store.read_status`.
        scratch: folder for the cases.
    """

    status: Mapping[Path, Mapping[str, Any]]
    scratch: Path

    def read(self, run: Run) -> ReadValues | KnbenchError:
        """Return the values of a result, or the error if it cannot be shown."""
        try:
            return self._read(run)
        except KnbenchError as error:
            return error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # valid by its schema, but inconsistent
            return KnbenchError(f"{run.result_path}: cannot be shown ({type(error).__name__}: {error})")

    def _read(self, run: Run) -> ReadValues:
        records = in_order(run.final_records())
        table = case_table(records, BOARD_MEASURES)
        about = {
            "values": values_of(records, table),
            "case_values": case_values(records, run.result.task.kind),
            "trust": trust_of(run, self.status),
            "questions": asked(records),
            "size": EditSize.of(records),
        }
        cases = [case_view(record) for record in records]
        stored = StoredCases.append(self.scratch / f"{os.getpid()}.msgpack", cases)
        extremes = ExtremeCases()
        folder = facts_page(run.result).removesuffix(".html")
        extremes.add(CaseLink(f"{folder}/{case.summary.name}.html", case.summary) for case in cases)
        return ReadValues(about, stored, extremes.links, cases[0])
