"""KnowEdit and other lists in EasyEdit's form: edits with locality and portability (Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import Task
from .common import (
    Answers,
    Card,
    Edit,
    ReadReport,
    Row,
    Tally,
    edit_task,
    is_hub_id,
    load_rows,
    missing,
    single_file,
    slotted,
    slug,
    text,
    texts,
    untagged,
)

DEFAULT = "zjunlp/KnowEdit"
# The parts with a true answer. wiki_recent and WikiBio have none, against which the new one could be weighed.
SELECTIONS = {"zsre": "ZsRE/ZsRE-test-all.json", "wiki_counterfact": "wiki_counterfact/test_cf.json"}


def read(selection: str | None, source: str) -> tuple[Task, ReadReport]:
    """Read one part of KnowEdit from a file, a folder laid out as published, or the hub.

    Raises:
        KnbenchError: no such part, no such file, or nothing could be read.
    """
    if selection is not None and selection not in SELECTIONS:
        raise unknown_name("selection of knowedit", selection, SELECTIONS)
    source = _locate(selection, source)
    tally = Tally()
    part = f" ({selection})" if selection else ""
    card = Card(
        name=slug(f"knowedit {selection or ''}"),
        kind="fact",
        title=f"KnowEdit{part}",
        description="Edits with paraphrases, what they must leave alone, and what follows from them.",
        licence="MIT",
        citation="Zhang et al. (2024), A Comprehensive Study of Knowledge Editing for Large Language Models, "
        "arXiv:2401.01286.",
        source=f"KnowEdit{part}, https://huggingface.co/datasets/zjunlp/KnowEdit",
        relation="various relations of Wikidata",
    )
    return edit_task(load_rows(source, tally), partial(translate, tally), tally, source, card)


def _locate(selection: str | None, source: str) -> str:
    folder = Path(source)
    if not folder.is_dir() and (":" in source or folder.is_file() or not is_hub_id(source)):
        return source
    if selection is None:
        if folder.is_dir():
            return single_file(folder, "knowedit")
        if source != DEFAULT:
            return source
        raise KnbenchError(f"knowedit on the hub has several parts; select one of: {', '.join(sorted(SELECTIONS))}")
    file = Path(SELECTIONS[selection])
    if folder.is_dir():
        tried = [folder / "benchmark" / file, folder / file, folder / file.name]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise missing(str(tried[0]))
        return str(found)
    return f"{source}:benchmark/{file.as_posix()}"


def translate(tally: Tally, row: Row) -> Edit:
    """Return an entry in plain terms.

    Raises:
        Unfit: a field is missing or has another form, or the subject does not occur in the prompt.
    """
    value = row.value
    subject = text(value, "subject")
    return Edit(
        subject=subject,
        prompt=slotted(text(value, "prompt"), subject),
        new=text(value, "target_new"),
        true=texts(value.get("ground_truth")),
        paraphrases=texts(value.get("rephrase_prompt")) or texts(value.get("rephrase")),
        locality=_flat(value) + questions(value.get("locality"), row, tally),
        portability=questions(value.get("portability"), row, tally),
    )


def _flat(value: Mapping[str, Any]) -> tuple[tuple[str, Answers], ...]:
    """Return the one locality prompt of EasyEdit's flat form, if there is one."""
    prompt, answers = texts(value.get("locality_prompt")), texts(value.get("locality_ground_truth"))
    return ((untagged(prompt[0]), answers),) if prompt and answers else ()


def questions(groups: Any, row: Row, tally: Tally) -> tuple[tuple[str, Answers], ...]:
    """Return the prompts of all groups ("Relation_Specificity", "Reasoning", ...) with their answers.

    The answers may be one string, a list of spellings, or a list of such lists: all of them count.
    """
    if not isinstance(groups, Mapping):
        return ()
    found = []
    for group in groups.values():
        for question in group or ():  # a part without such a group may spell it null
            asked = question if isinstance(question, Mapping) else {}
            prompt, answers = texts(asked.get("prompt")), texts(asked.get("ground_truth"))
            if len(prompt) == 1 and answers:
                found.append((prompt[0], answers))
            else:
                tally.skip_probe(row.place, "it has not one prompt and an answer")
    return tuple(found)
