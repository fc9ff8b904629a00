"""MultiBLiMP: agreement in 101 languages, from Universal Dependencies (Jumelet et al. 2025)."""

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
    source = resolve_file(source, "multiblimp")
    report = SkipReport()
    card = TaskCard(
        name=task_name_from(f"multiblimp {selection or ''}"),
        kind="linguistic",
        title=f"MultiBLiMP {selection or ''}".strip(),
        description=DESCRIPTION,
        licence="none stated in the file; the sentences have the licences of their treebanks",
        citation="Jumelet, Weissweiler, Nivre, Bisazza (2025), MultiBLiMP 1.0: A Massively Multilingual Benchmark of "
        "Linguistic Minimal Pairs, arXiv:2504.02768.",
        source="MultiBLiMP, https://huggingface.co/datasets/jumelet/multiblimp",
        relation=selection or "subject-verb and subject-participle agreement",
        version=1,
    )
    return build_pair_task(load_rows(source, report), parse, report, source, card, selection)


def parse(row: Row) -> Sentences:
    """Return the sentences of a record.

    Raises:
        SkipRecord: a sentence is missing.
    """
    return Sentences(
        row.location,
        row.location.index,
        required_text(row.value, "sen"),
        required_text(row.value, "wrong_sen"),
        str(row.value.get("phenomenon", "")),
    )


READER = PublishedReader("multiblimp", load)
