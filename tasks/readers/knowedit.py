"""KnowEdit, and other data in the format of EasyEdit: edits with locality and portability (Zhang et al. 2024)."""

from __future__ import annotations

import itertools
from pathlib import Path

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import Task
from .shared.cases import EditFields
from .shared.fields import keyed_on, required_answers, required_text, strings_in, task_name_from, with_slot
from .shared.knowedit_parts import paired_facts, parse_withheld, sentiment
from .shared.published_task import PublishedReader, TaskCard, build_edit_task
from .shared.rows import Row, is_hub_id, load_rows, resolve_file, source_not_found
from .shared.side_prompts import paired_prompts, plain_prompts, side_prompts
from .shared.skips import SkipReport

DEFAULT_SOURCE = "zjunlp/KnowEdit"
SELECTIONS = {
    "zsre": "ZsRE/ZsRE-test-all.json",
    "wiki_counterfact": "wiki_counterfact/test_cf.json",
    "wiki_recent": "wiki_recent/recent_test.json",
    "wikibio": "WikiBio/wikibio-test-all.json",
    "convsent": "convsent/blender_test.json",
    "sanitation": "Sanitation/trivia_qa_test.json",
}
NO_ANSWER = "<|endoftext|>"  # EasyEdit's text for a missing true answer
REPHRASE_FIELDS = ("rephrase_prompt", "rephrase", "rephrase_prompts")


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
    if selection == "sanitation":
        return build_edit_task(paired_facts(source), parse_withheld, report, source, card)
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
    return _find(folder, file) if folder.is_dir() else f"{source}:benchmark/{file.as_posix()}"


def _find(folder: Path, file: Path) -> str:
    """Return the path of a part in a folder with the structure of the Hub, or of its flat copy on ModelScope.

    The flat copy joins the folders of a path by underscores (``benchmark_ZsRE_ZsRE-test-all.json``).

    Raises:
        KnbenchError: the folder holds no such file.
    """
    joined = "_".join(file.parts)
    names = (folder / "benchmark" / file, folder / file, folder / f"benchmark_{joined}", folder / joined)
    candidates = [*names, folder / file.name]
    for path in (version for name in candidates for version in (name, name.with_name(f"{name.name}.gz"))):
        if path.is_file():
            return str(path)
    raise source_not_found(str(candidates[0]))


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record of any part. Facts of wiki_recent and WikiBio have no answer before the edit.

    Raises:
        SkipRecord: a field is missing or has another type, or the subject does not occur in the prompt.
    """
    value = row.value
    if "labels" in value and "concept" in value:
        return _biography(row, report)
    if "ent" in value and "pos" in value:
        return sentiment(row)
    subject = required_text(value, "subject")
    rephrased = [plain_prompts(value.get(field), field, row, report) for field in REPHRASE_FIELDS]
    return EditFields(
        subject=subject,
        prompt=with_slot(required_text(value, "prompt"), subject),
        new=required_answers(value, "target_new"),
        true=tuple(answer for answer in strings_in(value.get("ground_truth")) if answer != NO_ANSWER),
        paraphrases=tuple(dict.fromkeys(itertools.chain.from_iterable(rephrased))),
        locality=paired_prompts(value, "locality_prompt", "locality_ground_truth", row, report)
        + side_prompts(value.get("locality"), "locality", row, report),
        portability=paired_prompts(value, "portability_prompt", "portability_ground_truth", row, report)
        + side_prompts(value.get("portability"), "portability", row, report),
    )


def _biography(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record of WikiBio: the passage is to be continued by the right sentence."""
    subject, passage = keyed_on(required_text(row.value, "concept"), required_text(row.value, "text"))
    return EditFields(
        subject=subject,
        prompt=passage,
        new=required_answers(row.value, "labels"),
        true=(),
        unedited=side_prompts(row.value.get("locality"), "locality", row, report),
    )


READER = PublishedReader("knowedit", load, DEFAULT_SOURCE)
