"""CLAMS: subject-verb agreement in English, French, German, Hebrew and Russian (Mueller et al. 2020)."""

from __future__ import annotations

from pathlib import Path

from ...benchmark.core.errors import KnbenchError
from ...benchmark.core.schema import Task
from .shared.fields import required_text, task_name_from
from .shared.minimal_pairs import Sentences, build_pair_task
from .shared.published_task import PublishedReader, TaskCard
from .shared.rows import Row, load_text, source_not_found
from .shared.skips import SkipReport, SourceLocation

LANGUAGES = ("de", "en", "fr", "he", "ru")


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load one file, or the file of a paradigm (``de/simple_agrmt``) in a copy of the repository.

    Raises:
        KnbenchError: the source or the paradigm does not exist, or has another form.
    """
    file = _locate(selection, source)
    report = SkipReport()
    name = selection or Path(file).stem.removeprefix("clams_")
    card = TaskCard(
        name=task_name_from(f"clams {name}"),
        kind="linguistic",
        title=f"CLAMS {name}",
        description="After the cue, the last word that both sentences of a minimal pair share, the verb takes the form "
        "that does not agree with its subject.",
        licence="Apache-2.0",
        citation="Mueller, Nicolai, Petrou-Zeniou, Talmina, Linzen (2020), Cross-Linguistic Syntactic Evaluation of "
        "Word Prediction Models, ACL.",
        source="CLAMS, https://github.com/aaronmueller/clams",
        relation="subject-verb agreement",
        version=1,
    )
    return build_pair_task(_rows(file, report), parse, report, file, card)


def parse(row: Row) -> Sentences:
    """Return the sentences of a pair.

    Raises:
        SkipRecord: a sentence is missing.
    """
    good, bad = required_text(row.value, "grammatical"), required_text(row.value, "sentence")
    return Sentences(row.location, row.location.index, good, bad)


def _locate(selection: str | None, source: str) -> str:
    folder = Path(source)
    if not folder.is_dir():
        return source
    language, _, paradigm = (selection or "").partition("/")
    if language not in LANGUAGES or not paradigm:
        raise KnbenchError(
            f"clams needs a language and a paradigm for a folder: use clams:LANGUAGE/PARADIGM, for example "
            f"clams:de/simple_agrmt; languages: {', '.join(LANGUAGES)}"
        )
    path = folder / f"{language}_evalset" / f"{paradigm}.txt"
    if not path.is_file():
        raise source_not_found(str(path))
    return str(path)


def _rows(source: str, report: SkipReport) -> list[Row]:
    """Return one row per ungrammatical sentence, with the grammatical sentence before it.

    Raises:
        KnbenchError: the file does not exist or has no line of a verdict, a tab and a sentence.
    """
    rows, good = [], ""
    for index, line in enumerate(load_text(source).splitlines()):
        location = SourceLocation(index, f"line {index + 1}")
        verdict, _, sentence = line.partition("\t")
        if verdict == "True" and sentence.strip():
            good = sentence.strip()
        elif verdict == "False" and sentence.strip() and good:
            rows.append(Row(location, {"grammatical": good, "sentence": sentence.strip()}))
        elif line.strip():
            report.skip(location, "not True or False, a tab and a sentence")
    if not rows:
        raise KnbenchError(
            f"{source}: not CLAMS data: expected lines of True or False, a tab and a sentence; check that it is the "
            "right file"
        )
    return rows


READER = PublishedReader("clams", load)
