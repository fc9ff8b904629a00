"""Finished runs as tables: one row per result, per number, or per probe; as data frames of pandas or polars."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import weakref
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, overload

from ..core.errors import KnbenchError, unknown_name
from ..core.records import ProbeRecord, Record
from ..results.runs import Run, find_runs
from ..scoring.criteria import MEASURES
from ..scoring.formatting import format_regime

Row = dict[str, Any]
Rows = Literal["summary", "scores", "records"]
LIBRARIES = ("pandas", "polars")


class Results(Sequence[Run]):
    """Finished runs, in a fixed order. :func:`evaluate` and :func:`load_results` return them.

    ``results[0].result`` is the whole result of a run, as it is stored.

    Args:
        runs: the runs.
        temporary: a folder that is deleted with this object, because nobody named a place for the files.
    """

    def __init__(self, runs: Sequence[Run], temporary: Path | None = None) -> None:
        self._runs = list(runs)
        self.temporary = temporary
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...

    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return (
            f"Results({len(self)} runs: {', '.join(f'{r.result.editor.name} on {r.result.task.name}' for r in self)})"
        )

    def __str__(self) -> str:
        rows = [[_cell(value) for value in row.values()] for row in self.summary()]
        header = list(self.summary()[0]) if rows else []
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [header, *rows]
        )

    def _repr_html_(self) -> str:
        """Return the summary as a table, which notebooks show."""
        rows = self.summary()
        head = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else ()))
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) + "</tr>" for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def summary(self) -> list[Row]:
        """Return one row per run: the edit score with its parts, all between 0 and 1, and the cost.

        ``edit_score`` and its parts are None where the score is undefined. ``low`` and ``high`` are its 95% interval.
        """
        return [_summary(run) for run in self]

    def scores(self) -> list[Row]:
        """Return one row per run, criterion and measure, with the 95% interval."""
        return [
            {
                **_identity(run),
                "criterion": row.criterion,
                "measure": row.measure,
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "cases": row.cases,
                "probes": row.probes,
            }
            for run in self
            for row in run.result.summary
        ]

    def records(self) -> list[Row]:
        """Return one row per probe: what was asked, and what the model said before and after the edit.

        Log-probabilities are in nats. The measures that results store have a column each, None where a measure does
        not apply. Rows of a sequential run show the model right after the case's own edit.

        Raises:
            KnbenchError: records are missing, or differ from those that were scored.
        """
        return list(self._rows_of_probes())

    def _rows_of_probes(self) -> Iterator[Row]:
        for run in self:
            for record in run.records():
                for number, probe in enumerate(record.probes):
                    yield {**_identity(run), **_probe_row(record, number, probe)}

    def to_frame(self, rows: Rows = "summary", library: str | None = None) -> Any:
        """Return rows as a data frame.

        Args:
            rows: ``summary``, ``scores`` or ``records``; see the methods of these names.
            library: ``pandas`` or ``polars``; None takes the first one that is installed.

        Raises:
            KnbenchError: no library is installed, or a name is unknown.
        """
        makers = {"summary": self.summary, "scores": self.scores, "records": self.records}
        if rows not in makers:
            raise unknown_name("kind of rows", rows, makers)
        if library is None:
            library = next((name for name in LIBRARIES if importlib.util.find_spec(name)), LIBRARIES[0])
        if library not in LIBRARIES:
            raise unknown_name("library", library, LIBRARIES)
        try:
            module: Any = importlib.import_module(library)
        except ModuleNotFoundError:
            raise KnbenchError(f"data frames need {library}; install it with: pip install {library}") from None
        options = {"infer_schema_length": None} if library == "polars" else {}  # columns may begin with empty cells
        return module.DataFrame(makers[rows](), **options)


def load_results(*folders: str | Path) -> Results:
    """Load the finished runs below one or more folders, in a fixed order.

    Args:
        folders: run folders as ``knbench run`` writes them, or folders of stored results.

    Returns:
        The runs, as a sequence with tables.

    Raises:
        KnbenchError: a folder does not exist, contains no result, or contains an invalid one.

    Examples:
        >>> from knbench.benchmark import evaluate, load_results
        >>> _ = evaluate("toy-gpt2", ["none"], ["capital"], limit=2, output="runs/doctest")
        >>> results = load_results("runs/doctest")
        >>> results[0].result.task.name, len(results[0].records())
        ('capital', 2)
    """
    return Results(find_runs([Path(folder) for folder in folders]))


def _identity(run: Run) -> Row:
    result = run.result
    return {
        "model": result.model.name,
        "editor": result.editor.name,
        "task": result.task.name,
        "regime": format_regime(result.protocol),
    }


def _summary(run: Run) -> Row:
    result, score = run.result, run.result.edit_score
    return {
        **_identity(run),
        "cases": result.records.cases,
        "failed": result.records.failed,
        "edit_score": None if score is None else score.value,
        "low": None if score is None else score.low,
        "high": None if score is None else score.high,
        "gain": None if score is None else score.gain,
        "kept": None if score is None else score.preservation,
        "seconds_per_edit": result.cost.edit_seconds,
    }


def _probe_row(record: Record, number: int, probe: ProbeRecord) -> Row:
    before, after = probe.before, probe.after
    row: Row = {
        "case": record.case_id,
        "subject": record.request.subject,
        "edit_prompt": record.request.prompt,
        "target_new": record.request.target_new,
        "target_true": record.request.target_true,
        "failure": None if record.failure is None else record.failure.type,
        "probe": number,
        "criterion": probe.criterion,
        "kind": probe.kind,
        "prompt": probe.prompt,
        "target": probe.target,
        "rival": probe.rival,
        "expect": probe.expect,
    }
    for time, seen in (("before", before), ("after", after)):
        row[f"target_logprob_{time}"] = None if seen is None or seen.target_answer is None else seen.target.logprob
        row[f"rival_logprob_{time}"] = None if seen is None or seen.rival_answer is None else seen.rival.logprob
        row[f"top_{time}"] = None if seen is None else seen.top
        row[f"generated_{time}"] = None if seen is None else seen.generated
    for name, measure in MEASURES.items():
        if measure.stored:
            row[name] = None if before is None or after is None else measure.of(probe, before, after)
    return row


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
