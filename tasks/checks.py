"""Finds rows of fact tasks that can be run, but whose numbers are hard to interpret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..benchmark.core.schema import Case
from ..benchmark.core.text import WORD_JOINER, is_unspaced
from .facts import read_rows
from .tables import Row, read_table


def fact_warnings(spec: Mapping[str, Any], definition: Path, cases: Sequence[Case]) -> Iterator[str]:
    """Yield one line per finding, with the numbers of its rows in the first table of the task. The first row is 1.

    Findings are subjects with several answers, objects of several subjects in a task with symmetry, targets of
    different length, prompts that contain an answer, and subjects that are a part of a target or contain one.

    Args:
        spec: the section ``facts`` of the definition.
        definition: the path of the definition file.
        cases: the cases of the task.

    Raises:
        KnbenchError: see :func:`.facts.fact_cases`.
    """
    table = read_table(definition.parent / spec["data"][0], spec["id"], definition)
    number = {row_id: index for index, row_id in enumerate(table, start=1)}
    rows = sorted(read_rows(spec, definition), key=lambda row: number[row[spec["id"]]])
    yield from _ambiguous(spec, rows, number)
    for case in sorted(cases, key=lambda case: number[case.id]):
        for finding in (*_lengths(case), *_overlaps(case), *_leaks(case)):
            yield f"row {number[case.id]}: {finding}"


def _ambiguous(spec: Mapping[str, Any], rows: Sequence[Row], number: Mapping[str, int]) -> Iterator[str]:
    """Yield the rows that share their subject, and those that share their object if the task asks for the subject."""
    subject, answer = spec["subject"], spec["object"]
    for same in _groups(rows, subject):
        answers = list(dict.fromkeys(row[answer] for row in same))
        where = ", ".join(str(number[row[spec["id"]]]) for row in same)
        if len(answers) > 1:
            shown = ", ".join(repr(a) for a in answers)
            yield f"rows {where}: subject {same[0][subject]!r} has several answers: {shown}; keep one of the rows"
        else:
            yield f"rows {where}: the same fact about {same[0][subject]!r}; keep one of the rows"
    if "symmetry" in spec["probes"]:
        for same in _groups(rows, answer):
            where = ", ".join(str(number[row[spec["id"]]]) for row in same)
            yield (
                f"rows {where}: object {same[0][answer]!r} has several subjects, and the symmetry probes accept one; "
                "remove the symmetry probes or the rows"
            )


def _groups(rows: Sequence[Row], column: str) -> Iterator[list[Row]]:
    """Yield the rows that have the same cell in a column, if there are several. Case is ignored."""
    ordered = sorted(rows, key=lambda row: row[column].casefold())  # stable: rows stay in order
    for _, group in groupby(ordered, key=lambda row: row[column].casefold()):
        same = list(group)
        if len(same) > 1:
            yield same


def _lengths(case: Case) -> Iterator[str]:
    new, true = case.request.target_new, case.request.target_true
    if len(new.split()) != len(true.split()):
        yield (
            f"new target {new!r} and true target {true!r} differ in their number of words, and longer targets are less "
            "probable; draw new targets of equal length"
        )


def _overlaps(case: Case) -> Iterator[str]:
    subject = case.request.subject
    for label, target in (("new", case.request.target_new), ("true", case.request.target_true)):
        if contains(target, subject) or contains(subject, target):
            yield f"subject {subject!r} and {label} target {target!r} contain each other; use another row or target"


def _leaks(case: Case) -> Iterator[str]:
    """Yield the prompts that contain the target or the rival, apart from those that contain it in their subject."""
    seen = set()
    for probe in case.probes:
        for answer in filter(None, (probe.target, probe.rival)):
            prompt = probe.prompt.removesuffix(WORD_JOINER)
            leaked = contains(prompt.replace(case.request.subject, " "), answer)
            if leaked and (prompt, answer) not in seen:
                seen.add((prompt, answer))
                yield f"the {probe.criterion} prompt {prompt!r} contains the answer {answer!r}; use other words"
    for support in case.request.support:
        if contains(support.prompt.replace(case.request.subject, " "), support.target):
            yield f"the support prompt {support.prompt!r} contains the answer {support.target!r}; use other words"


def contains(text: str, part: str) -> bool:
    """Return whether a text contains another one as whole words.

    Case is ignored, except for one or two letters, which are often another word ("As" for arsenic). Scripts without
    spaces do not show words; any occurrence counts.

    >>> contains("New York City", "new york"), contains("Romeo", "Rome"), contains("東京都", "東京")
    (True, False, True)
    >>> contains("arsenic is written as", "As")
    False
    """
    if len(part) > 2:
        text, part = text.casefold(), part.casefold()
    if any(is_unspaced(char) for char in part):
        return part in text
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None
