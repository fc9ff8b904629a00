"""RuBLiMP: minimal pairs of Russian from corpora (Taktasheva et al. 2024)."""

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
    source = resolve_file(source, "rublimp")
    report = SkipReport()
    card = TaskCard(
        name=task_name_from(f"rublimp {selection or ''}"),
        kind="linguistic",
        title=f"RuBLiMP {selection or ''}".strip(),
        description=DESCRIPTION,
        licence="Apache-2.0; the copyright of the sentences is with their authors",
        citation="Taktasheva, Bazhukov, Koncha, Fenogenova, Artemova, Mikhailov (2024), RuBLiMP: Russian Benchmark of "
        "Linguistic Minimal Pairs, EMNLP.",
        source="RuBLiMP, https://github.com/RussianNLP/RuBLiMP",
        relation=selection or "45 paradigms of Russian",
        version=1,
    )
    return build_pair_task(load_rows(source, report), parse, report, source, card, selection)


def parse(row: Row) -> Sentences:
    """Return the sentences of a record. The source sentence is the grammatical one.

    Raises:
        SkipRecord: a sentence is missing.
    """
    number = str(row.value.get("id", ""))
    return Sentences(
        row.location,
        int(number) if number.isdecimal() else row.location.index,
        required_text(row.value, "source_sentence"),
        required_text(row.value, "target_sentence"),
        str(row.value.get("PID", "")),
    )


READER = PublishedReader("rublimp", load)
