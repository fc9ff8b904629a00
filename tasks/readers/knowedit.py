"""KnowEdit, and other data in the format of EasyEdit: edits with locality and portability (Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import Task
from .shared.cases import Answers, EditFields
from .shared.fields import required_text, strings_in, task_name_from, with_slot, without_nq_tag
from .shared.published_task import PublishedReader, TaskCard, build_edit_task
from .shared.rows import Row, is_hub_id, load_rows, resolve_file, source_not_found
from .shared.skips import SkipReport

DEFAULT_SOURCE = "zjunlp/KnowEdit"
# The parts with a true answer. wiki_recent and WikiBio have none with which the new target could be compared.
SELECTIONS = {"zsre": "ZsRE/ZsRE-test-all.json", "wiki_counterfact": "wiki_counterfact/test_cf.json"}


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load one part of KnowEdit from a file, a folder with the published structure, or the Hub.

    Raises:
        KnbenchError: the part or the source does not exist, or no record can be read.
    """
    if selection is not None and selection not in SELECTIONS:
        raise unknown_name("selection of knowedit", selection, SELECTIONS)
    source = _locate(selection, source)
    report = SkipReport()
    part = f" ({selection})" if selection else ""
    card = TaskCard(
        name=task_name_from(f"knowedit {selection or ''}"),
        kind="fact",
        title=f"KnowEdit{part}",
        description="Edits with paraphrases, what they must leave alone, and what follows from them.",
        licence="MIT",
        citation="Zhang et al. (2024), A Comprehensive Study of Knowledge Editing for Large Language Models, "
        "arXiv:2401.01286.",
        source=f"KnowEdit{part}, https://huggingface.co/datasets/zjunlp/KnowEdit",
        relation="various relations of Wikidata",
    )
    return build_edit_task(load_rows(source, report), parse, report, source, card)


def _locate(selection: str | None, source: str) -> str:
    """Return the file, or the file on the Hub, that holds the selected part."""
    folder = Path(source)
    if not folder.is_dir() and (":" in source or folder.is_file() or not is_hub_id(source)):
        return source
    if selection is None:
        if source == DEFAULT_SOURCE and not folder.is_dir():
            raise KnbenchError(f"knowedit on the Hub has several parts; select one of: {', '.join(sorted(SELECTIONS))}")
        return resolve_file(source, "knowedit")
    file = Path(SELECTIONS[selection])
    if folder.is_dir():
        candidates = [folder / "benchmark" / file, folder / file, folder / file.name]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise source_not_found(str(candidates[0]))
        return str(found)
    return f"{source}:benchmark/{file.as_posix()}"


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record.

    Raises:
        SkipRecord: a field is missing or has another type, or the subject does not occur in the prompt.
    """
    value = row.value
    subject = required_text(value, "subject")
    return EditFields(
        subject=subject,
        prompt=with_slot(required_text(value, "prompt"), subject),
        new=required_text(value, "target_new"),
        true=strings_in(value.get("ground_truth")),
        paraphrases=strings_in(value.get("rephrase_prompt")) or strings_in(value.get("rephrase")),
        locality=_flat_locality(value) + _grouped_prompts(value.get("locality"), row, report),
        portability=_grouped_prompts(value.get("portability"), row, report),
    )


def _flat_locality(value: Mapping[str, Any]) -> tuple[tuple[str, Answers], ...]:
    """Return the single locality prompt of EasyEdit's flat format, or nothing if the record has none."""
    prompt, answers = strings_in(value.get("locality_prompt")), strings_in(value.get("locality_ground_truth"))
    return ((without_nq_tag(prompt[0]), answers),) if prompt and answers else ()


def _grouped_prompts(groups: Any, row: Row, report: SkipReport) -> tuple[tuple[str, Answers], ...]:
    """Return the prompts of all groups ("Relation_Specificity", "Reasoning", ...) with their answers.

    The answers are one string, a list of spellings, or a list of such lists. All of them are accepted spellings.
    """
    if not isinstance(groups, Mapping):
        return ()
    found = []
    for group in groups.values():
        for entry in group or ():  # a part without this group may have null here
            fields = entry if isinstance(entry, Mapping) else {}
            prompt, answers = strings_in(fields.get("prompt")), strings_in(fields.get("ground_truth"))
            if len(prompt) == 1 and answers:
                found.append((prompt[0], answers))
            else:
                report.skip_probe(row.location, "not exactly one prompt with an answer")
    return tuple(found)


READER = PublishedReader("knowedit", load, DEFAULT_SOURCE)
