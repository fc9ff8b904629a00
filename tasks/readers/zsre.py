"""zsRE as question answering: the form of MEND and ROME, and that of EasyEdit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...benchmark.core.errors import unknown_name
from ...benchmark.core.schema import Task
from . import knowedit
from .common import (
    Card,
    Edit,
    ReadReport,
    Row,
    Tally,
    Unfit,
    edit_task,
    load_rows,
    single_file,
    slotted,
    text,
    texts,
    untagged,
)

# KnowEdit's copy; it has the new answers that zsRE itself lacks.
DEFAULT = f"{knowedit.DEFAULT}:benchmark/{knowedit.SELECTIONS['zsre']}"


def read(selection: str | None, source: str) -> tuple[Task, ReadReport]:
    """Read zsRE from a file, a folder with one, or the hub. The answer follows the question mark after a space.

    Raises:
        KnbenchError: a selection is asked for, of which there are none; or nothing could be read.
    """
    if selection is not None:
        raise unknown_name("selection of zsre", selection, ())
    if Path(source).is_dir():
        source = single_file(Path(source), "zsre")
    tally = Tally()
    card = Card(
        name="zsre",
        kind="fact",
        title="zsRE",
        description="Questions about an entity, each to be answered otherwise, with a rephrased question and an "
        "unrelated one.",
        licence="MIT, the licence of the MEND and KnowEdit repositories",
        citation="Levy, Seo, Choi, Zettlemoyer (2017), Zero-Shot Relation Extraction via Reading Comprehension, CoNLL; "
        "Mitchell, Lin, Bosselut, Finn, Manning (2022), Fast Model Editing at Scale, ICLR.",
        source="zsRE as prepared for model editing, https://github.com/eric-mitchell/mend",
        relation="various relations of Wikidata, as questions",
    )
    return edit_task(load_rows(source, tally), partial(translate, tally), tally, source, card)


def translate(tally: Tally, row: Row) -> Edit:
    """Return an entry in plain terms, whichever form it has.

    Raises:
        Unfit: a field is missing or has another form, or the subject does not occur in the question.
    """
    value = row.value
    if "src" not in value and "prompt" in value:
        return knowedit.translate(tally, row)
    subject, question = text(value, "subject"), text(value, "src")
    new = texts(value.get("alt"))
    if not new:
        raise Unfit("no field 'alt'")
    return Edit(
        subject=subject,
        prompt=slotted(question, subject),
        new=new[0],
        true=texts(value.get("answers")),
        paraphrases=texts(value.get("rephrase")),
        locality=_locality(value),
    )


def _locality(value: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the unrelated question, if there is one."""
    asked, answers = texts(value.get("loc")), texts(value.get("loc_ans"))
    return ((untagged(asked[0]), answers),) if asked and answers else ()
