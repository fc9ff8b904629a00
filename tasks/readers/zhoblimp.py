"""ZhoBLiMP: minimal pairs of Chinese (Liu et al. 2024)."""

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
    source = resolve_file(source, "zhoblimp")
    report = SkipReport()
    card = TaskCard(
        name=task_name_from(f"zhoblimp {selection or ''}"),
        kind="linguistic",
        title=f"ZhoBLiMP {selection or ''}".strip(),
        description=DESCRIPTION,
        licence="none stated",
        citation="Liu, Shen, Zhu, Xu, Qin, Wang, Zhang, Wang, Hu (2024), ZhoBLiMP: a Systematic Assessment of Language "
        "Models with Linguistic Minimal Pairs in Chinese, arXiv:2411.06096.",
        source="ZhoBLiMP, https://github.com/sjtu-compling/ZhoBLiMP",
        relation=selection or "118 paradigms of Chinese",
        version=1,
    )
    return build_pair_task(load_rows(source, report), parse, report, source, card, selection)


def parse(row: Row) -> Sentences:
    """Return the sentences of a record.

    Raises:
        SkipRecord: a sentence is missing.
    """
    number = str(row.value.get("pairID", ""))
    return Sentences(
        row.location,
        int(number) if number.isdecimal() else row.location.index,
        required_text(row.value, "sentence_good"),
        required_text(row.value, "sentence_bad"),
        str(row.value.get("UID", "")),
    )


READER = PublishedReader("zhoblimp", load)
