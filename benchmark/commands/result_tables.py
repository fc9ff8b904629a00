"""Tables of results for the terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.documents import EditScore, Result, SummaryRow
from ..core.records import Record
from ..results.edit_scores import format_rank, rank_by_edit_score
from ..scoring.criteria import MEASURES
from ..scoring.edit_score import FAMILIES, PRESERVATION, case_values
from ..scoring.edit_score_estimates import mean_over_checkpoints
from ..scoring.formatting import SCORE_EXPLANATION, SPLIT_NOTES, format_drift, format_p_value, format_regime
from ..scoring.protocols import DEFAULT, PROTOCOLS, Column
from .terminal import console, format_estimate, format_number, print_compact_table, print_table

FEW_CASES = 10
"""Below this number of cases, tables warn about wide intervals."""
TEXT_WIDTH = 100
"""Width in characters to which explanations are wrapped, that of a table of edit scores."""
DRIFT_HEADER = ("editor", "task", "before", "after", "difference")
EFFECT_HEADER = ("criterion", "word", "cases", "before", "after", "relative change", "p paired, adj.", "p unpaired")
FAMILY_TITLES: Mapping[str, str] = {
    "direct": "direct",
    "wording": "wording",
    "inverse": "inverse",
    "consequence": "conseq.",
}
"""Headings of the families' gains, short because a table fits 100 columns."""

RunRecords = Sequence[Sequence[Record]]
"""The records of some results, in the order of the results."""


@dataclass(frozen=True)
class ResultTable:
    """A table of results as text.

    Attributes:
        title: task, model and settings that all rows share, and the protocol.
        header: names of the columns: the editor, the protocol's numbers, cost and failures.
        rows: one row of cells per editor.
        results: the results that the rows show, in their order.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    results: Sequence[Result]


def tabulate(
    results: Sequence[Result], protocol: str, records: RunRecords = (), *, all_columns: bool = False
) -> list[ResultTable]:
    """Return one table per task, model and run settings, because numbers of different settings are not comparable.

    Args:
        results: the results.
        protocol: name of a protocol. The default one shows the edit score and its parts.
        records: the records of each result, from which ranks are computed; without them no rank is shown.
        all_columns: whether the default protocol also shows its criteria.
    """
    groups: dict[str, list[int]] = {}
    for number, result in enumerate(results):
        groups.setdefault(f"{result.task.name}: {', '.join(_settings_notes(result))}", []).append(number)
    tables = []
    for title, numbers in groups.items():
        members = [results[n] for n in numbers]
        if protocol == DEFAULT:
            own = [records[n] for n in numbers] if records else ()
            tables.append(_score_table(title, members, own, all_columns=all_columns))
        else:
            tables.append(_protocol_table(title, members, protocol))
    return tables


def _score_table(title: str, results: Sequence[Result], records: RunRecords, *, all_columns: bool) -> ResultTable:
    """Return the edit score, its parts and, on request, all criteria; the best method first."""
    names = [result.editor.name for result in results]
    ranks: dict[str, str] = {}
    if records and len(set(names)) == len(names) > 1:
        values = {
            result.editor.name: case_values(found, result.task.kind)
            for result, found in zip(results, records, strict=True)
        }
        ranks = {row.method: format_rank(row) for row in rank_by_edit_score([values])}
    ordered = sorted(results, key=lambda r: (-(r.edit_score.value if r.edit_score else -1.0), r.editor.name))
    sequential = any(result.curve for result in ordered)
    families = [name for name in FAMILIES if any(r.edit_score and name in r.edit_score.families for r in ordered)]
    if sequential and not all_columns:  # the table would exceed 100 columns
        families = []
    criteria = _present(ordered, PROTOCOLS[DEFAULT].columns) if all_columns else []
    rows = [
        [
            *([ranks.get(r.editor.name, "-")] if ranks else []),
            r.editor.name,
            *_score_cells(r.edit_score, families),
            *(_sequence_cells(r) if sequential else []),
            *(_summary_cell(_rows_of(r).get((column.criterion, column.measure))) for column in criteria),
            *_cost_cells(r),
        ]
        for r in ordered
    ]
    header = [
        *(["rank"] if ranks else []),
        *("editor", "edit score", "gain", "kept"),
        *(FAMILY_TITLES[name] for name in families),
        *(["at once", "checkpoints"] if sequential else []),
        *(column.name for column in criteria),
        *("s/edit", "failed"),
    ]
    return ResultTable(title, header, rows, ordered)


def _score_cells(score: EditScore | None, families: Sequence[str]) -> list[str]:
    if score is None:
        return ["-"] * (3 + len(families))
    parts = [score.gain, score.preservation, *(score.families.get(name) for name in families)]
    return [
        format_estimate(score.value, score.low, score.high, share=True),
        *("-" if value is None else format_number(value, share=True) for value in parts),
    ]


def _sequence_cells(result: Result) -> list[str]:
    """Return the edit score right after each edit, and its mean over the checkpoints."""
    immediate = result.immediate_edit_score.value if result.immediate_edit_score else None
    values = [immediate, mean_over_checkpoints(result)]
    return ["-" if value is None else format_number(value, share=True) for value in values]


def _protocol_table(title: str, results: Sequence[Result], protocol: str) -> ResultTable:
    chosen = PROTOCOLS[protocol]
    columns = _present(results, chosen.columns)
    rows = [
        [
            result.editor.name,
            *(_summary_cell(_rows_of(result).get((column.criterion, column.measure))) for column in columns),
            *_cost_cells(result),
        ]
        for result in results
    ]
    header = ["editor", *(column.name for column in columns), "s/edit", "failed"]
    return ResultTable(f"{title}, {chosen.title}", header, rows, results)


def _present(results: Sequence[Result], columns: Sequence[Column]) -> list[Column]:
    """Return the columns that any of the results has."""
    found = {key for result in results for key in _rows_of(result)}
    return [column for column in columns if (column.criterion, column.measure) in found]


def _rows_of(result: Result) -> dict[tuple[str, str], SummaryRow]:
    return {(row.criterion, row.measure): row for row in result.summary}


def _cost_cells(result: Result) -> list[str]:
    seconds = result.cost.edit_seconds
    return ["" if seconds is None else f"{seconds:.2f}", str(result.records.failed)]


def _summary_cell(row: SummaryRow | None) -> str:
    if row is None:
        return "-"
    return format_estimate(row.value, row.low, row.high, share=MEASURES[row.measure].share)


def print_results(
    results: Sequence[Result], protocol: str = DEFAULT, records: RunRecords = (), *, all_columns: bool = False
) -> None:
    """Print the tables of a protocol; see :func:`tabulate` for the arguments."""
    out = console()
    for found in tabulate(results, protocol, records, all_columns=all_columns):
        print_compact_table(found.title, found.header, found.rows)
        if any(result.drift is not None for result in found.results):
            _print_drift(found.results)
    out.print(textwrap.fill(explanation(results, protocol), width=TEXT_WIDTH), style="dim")


def markdown_results(
    results: Sequence[Result], protocol: str = DEFAULT, records: RunRecords = (), *, all_columns: bool = False
) -> str:
    """Return the tables of a protocol in Markdown; see :func:`tabulate` for the arguments."""
    parts = []
    for found in tabulate(results, protocol, records, all_columns=all_columns):
        rule = ["---" if name == "editor" else "---:" for name in found.header]
        lines = ["| " + " | ".join(row) + " |" for row in (found.header, rule, *found.rows)]
        parts.append(f"**{found.title}**\n\n" + "\n".join(lines) + "\n")
    return "\n".join([*parts, explanation(results, protocol) + "\n"])


def print_effects(results: Sequence[Result]) -> None:
    """Print one table per result of a linguistic task: how edits change the probability of words."""
    for result in results:
        rows = [
            [
                row.criterion,
                row.word or f"all {row.role}s",
                row.cases,
                f"{row.before:.4f}",
                f"{row.after:.4f}",
                f"{100 * row.relative_change:+.0f}%",
                format_p_value(row.p_adjusted),
                format_p_value(row.p_unpaired),
            ]
            for row in result.effect or ()
        ]
        if rows:
            print_table(f"{result.editor.name} on {result.task.name}: effect on words", EFFECT_HEADER, rows)
            flips = (row for row in result.summary if row.measure == "flipped")
            shares = ", ".join(f"{row.criterion} {_summary_cell(row)}" for row in flips)
            console().print(f"Categorical predictions that flip, %: {shares}", style="dim")


def explanation(results: Sequence[Result], protocol: str = DEFAULT) -> str:
    """Return how to read a table's numbers, with a warning if there are fewer than :data:`FEW_CASES` cases."""
    fewest = min((result.protocol.cases for result in results), default=0)
    warning = f" Few cases ({fewest}): the intervals are wide." if fewest < FEW_CASES else ""
    if protocol != DEFAULT:
        return f"Values are means over cases with 95% intervals. Higher is better.{warning}"
    skipped = sorted({name for result in results if result.edit_score for name in result.edit_score.without_headroom})
    left_out = f" Left out, because the unedited model fulfils it: {', '.join(skipped)}." if skipped else ""
    if results and all(_without_headroom(result) for result in results):
        left_out = " No edit score: before any edit, the model fulfils each criterion that an edit is meant to fulfil."
        if not all(result.protocol.known_only for result in results):
            left_out += " --known-only leaves such cases out."
    if any(result.curve for result in results):
        left_out += (
            " Of sequential runs, the edit score is the one after the last edit; at once: right after each case's own "
            "edit; checkpoints: their mean."
        )
    return f"{SCORE_EXPLANATION} Gain is the mean over the families. Criteria: --all-columns.{left_out}{warning}"


def _without_headroom(result: Result) -> bool:
    """Return whether a result has no edit score although edits and what they should preserve were measured."""
    measured = result.records.cases > result.records.failed
    kept = any(row.criterion in PRESERVATION and row.measure == "kl" for row in result.summary)
    return result.edit_score is None and measured and kept


def _settings_notes(result: Result) -> list[str]:
    """Return the settings in which the results of one table agree."""
    protocol = result.protocol
    notes = [
        result.model.name,
        format_regime(protocol),
        f"{protocol.cases} cases",
        SPLIT_NOTES[protocol.split],
        "lite" if protocol.subset == "lite" else "",
        f"limit {protocol.limit}" if protocol.limit else "",
        "known only" if protocol.known_only else "",
    ]
    return [note for note in notes if note]


def _print_drift(results: Sequence[Result]) -> None:
    """Print the drift after the last edit: one row per editor and drift task."""
    rows = [
        [result.editor.name, row.name, row.before, row.after, row.difference]
        for result in results
        for row in format_drift(result.drift)
    ]
    print_table("drift (of perplexity, the difference is in nats per token)", DRIFT_HEADER, rows)
