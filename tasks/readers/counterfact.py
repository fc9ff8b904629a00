"""CounterFact: facts to be replaced, with paraphrases and neighbours (Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...benchmark.core.errors import unknown_name
from ...benchmark.core.schema import Task
from .common import Card, Edit, ReadReport, Row, Tally, Unfit, edit_task, load_rows, single_file, slotted, text, texts

DEFAULT = "azhx/counterfact"


def read(selection: str | None, source: str) -> tuple[Task, ReadReport]:
    """Read CounterFact from a file, a folder with one, or the hub.

    Raises:
        KnbenchError: a selection is asked for, of which there are none; or nothing could be read.
    """
    if selection is not None:
        raise unknown_name("selection of counterfact", selection, ())
    if Path(source).is_dir():
        source = single_file(Path(source), "counterfact")
    tally = Tally()
    card = Card(
        name="counterfact",
        kind="fact",
        title="CounterFact",
        description="Facts of Wikidata, each to be replaced by a false one, with paraphrases and neighbours of the "
        "same answer.",
        licence="MIT",
        citation="Meng, Bau, Andonian, Belinkov (2022), Locating and Editing Factual Associations in GPT, NeurIPS.",
        source="CounterFact, https://rome.baulab.info/",
        relation="34 relations of Wikidata",
    )
    return edit_task(load_rows(source, tally), translate, tally, source, card)


def translate(row: Row) -> Edit:
    """Return an entry in plain terms. The prompts for attributes and for generation ask for nothing that is scored.

    Raises:
        Unfit: a field is missing or has another form.
    """
    rewrite = row.value.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        raise Unfit("no field 'requested_rewrite'")
    subject = text(rewrite, "subject")
    true = _target(rewrite, "target_true")
    return Edit(
        subject=subject,
        prompt=slotted(text(rewrite, "prompt"), subject),
        new=_target(rewrite, "target_new"),
        true=(true,),
        paraphrases=texts(row.value.get("paraphrase_prompts")),
        locality=tuple((prompt, (true,)) for prompt in texts(row.value.get("neighborhood_prompts"))),
    )


def _target(rewrite: Mapping[str, Any], key: str) -> str:
    target = rewrite.get(key)
    if not isinstance(target, Mapping) or not texts(target.get("str")):
        raise Unfit(f"no field '{key}'")
    return texts(target["str"])[0]
