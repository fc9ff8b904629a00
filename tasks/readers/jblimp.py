"""JBLiMP: minimal pairs of Japanese from journal articles (Someya and Oseki 2023)."""

from __future__ import annotations

from ...benchmark.core.schema import Task
from .shared.fields import required_text, task_name_from
from .shared.minimal_pairs import DESCRIPTION, Sentences, build_pair_task
from .shared.published_task import PublishedReader, TaskCard
from .shared.rows import Row, load_rows, resolve_file
from .shared.skips import SkipReport


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load one file, or the pairs of one paradigm in it.

    Raises:
        KnbenchError: the source cannot be loaded, has no pair of the paradigm, or no record can be read.
    """
    source = resolve_file(source, "jblimp")
    report = SkipReport()
    card = TaskCard(
        name=task_name_from(f"jblimp {selection or ''}"),
        kind="linguistic",
        title=f"JBLiMP {selection or ''}".strip(),
        description=DESCRIPTION,
        licence="none: the sentences are excerpts whose copyright is with authors and publishers",
        citation="Someya, Oseki (2023), JBLiMP: Japanese Benchmark of Linguistic Minimal Pairs, Findings of EACL.",
        source="JBLiMP, https://github.com/osekilab/JBLiMP",
        relation=selection or "39 paradigms of Japanese",
        version=1,
    )
    return build_pair_task(load_rows(source, report), parse, report, source, card, selection)


def parse(row: Row) -> Sentences:
    """Return the sentences of a record of the JSON Lines or of the table.

    Raises:
        SkipRecord: a sentence is missing.
    """
    number = str(row.value.get("ID", ""))
    return Sentences(
        row.location,
        int(number) if number.isdecimal() else row.location.index,
        required_text(row.value, "good_sentence" if "good_sentence" in row.value else "good_sentence_raw"),
        required_text(row.value, "bad_sentence" if "bad_sentence" in row.value else "bad_sentence_raw"),
        str(row.value.get("paradigm", "")),
    )


READER = PublishedReader("jblimp", load)
