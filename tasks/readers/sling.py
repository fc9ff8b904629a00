"""SLING: minimal pairs of Chinese (Song et al. 2022)."""

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
    source = resolve_file(source, "sling")
    report = SkipReport()
    card = TaskCard(
        name=task_name_from(f"sling {selection or ''}"),
        kind="linguistic",
        title=f"SLING {selection or ''}".strip(),
        description=DESCRIPTION,
        licence="MIT",
        citation="Song, Krishna, Bhatt, Iyyer (2022), SLING: Sino Linguistic Evaluation of Large Language Models, "
        "EMNLP.",
        source="SLING, https://github.com/Yixiao-Song/SLING_Data_Code",
        relation=selection or "38 paradigms of Chinese",
        version=1,
    )
    return build_pair_task(load_rows(source, report), parse, report, source, card, selection)


def parse(row: Row) -> Sentences:
    """Return the sentences of a record.

    Raises:
        SkipRecord: a sentence is missing.
    """
    number = str(row.value.get("pair_ID", ""))
    return Sentences(
        row.location,
        int(number) if number.isdecimal() else row.location.index,
        required_text(row.value, "sentence_good"),
        required_text(row.value, "sentence_bad"),
        str(row.value.get("paradigm", row.value.get("Paradigm", ""))),
    )


READER = PublishedReader("sling", load)
