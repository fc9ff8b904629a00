"""Validation of stored results. Everything in a submission is untrusted text.

Nothing in it is executed or unpickled. Files that do not belong to a result are refused. Every message names the file,
the place as a JSON pointer, and the fix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.documents import Result
from ..core.errors import KnbenchError
from ..core.local_paths import without_folders
from ..core.printable import printable
from ..core.schema import Task
from ..core.version import __version__
from .audit import check_task
from .completeness import incomplete
from .documents import first_difference, manifest_of, release_series
from .io import CHECKPOINTS, DRIFT, RECORDS
from .layout import CARD, RESULT_DEPTH, StoreFiles, read_layout, skeleton
from .plausibility import implausible, implausible_drift
from .record_texts import text_flaw
from .rescoring import RunLines, read_run_lines, score_lines
from .runs import Run, check_place, stored_run
from .selection import selection_flaw
from .store import read_card, read_reported, read_status_file, refusal, stored_names
from .submission import mixed_settings
from .unedited import UneditedModels

MAX_FILE_BYTES = 1 << 26
"""Maximum size of a file in a submission."""
LINE_FILES = (RECORDS, CHECKPOINTS, DRIFT)
"""Files of JSON lines that a result may have."""
REFERENCE_METHOD = "none"
"""Method whose results other results on the same model are compared with, where it has some."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of a validation.

    Attributes:
        results: the valid results.
        problems: one printable line per problem, with its fix.
        notes: one printable line per fact that readers of the board are told: limits, failures.
    """

    results: Sequence[Run]
    problems: Sequence[str]
    notes: Sequence[str]


@dataclass
class _Findings:
    """Problems and valid results that were found so far, and the files that belong to a result."""

    problems: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    claimed: set[Path] = field(default_factory=set)
    unedited: UneditedModels = field(default_factory=UneditedModels)

    def add(self, path: Path, error: Exception) -> None:
        """Note an error of a file: one with a message for the user, or any other that hostile content caused."""
        if isinstance(error, KnbenchError):
            self.problems.append(str(error))
        else:
            self.problems.append(f"{path}: cannot be checked ({type(error).__name__}: {error}); store the result again")


def validate(folder: Path, tasks: Mapping[str, Task], added: Collection[Path] = ()) -> Verdict:
    """Check everything below a folder of stored results. The records of each result are read once.

    No content of a file raises an exception: each file is checked on its own, and every error becomes a problem.

    Args:
        folder: a store, or a method's folder in a store.
        tasks: the registered tasks by name; results of other tasks are scored and not compared with a task.
        added: files that a submission adds. They are compared with the other files, not the other files with them.

    Raises:
        KnbenchError: the folder does not exist.
    """
    if not folder.is_dir():
        raise KnbenchError(f"'{folder}' is not a directory; make one with: knbench submit RUN --card CARD.md")
    found = _Findings()
    files = read_layout(folder)
    found.problems += files.strays
    for paths, read in ((files.status, read_status_file), (files.cards, read_card), (files.reported, read_reported)):
        for path in paths:
            try:
                read(path)
            except Exception as error:
                found.add(path, error)
    new = frozenset(added)
    for path in sorted(files.results, key=lambda path: (path in new, not _is_reference(path), path)):
        _validate_result(path, tasks, found, is_new=path in new)
    found.problems += [
        f"{path}: does not belong to a result; delete it" for path in files.lines if path not in found.claimed
    ]
    found.problems += _methods_without_card(files, found.runs)
    found.problems += _look_alike(files)
    if not found.runs and not found.problems:
        found.problems.append(f"{folder}: holds no result; make one with: knbench submit RUN --card CARD.md")
    found.problems += mixed_settings(found.runs)
    return Verdict(
        found.runs,
        [printable(problem) for problem in found.problems],
        [printable(note) for run in found.runs for note in _notes(run, tasks)],
    )


def _is_reference(path: Path) -> bool:
    return path.resolve().parts[-RESULT_DEPTH] == REFERENCE_METHOD


def _methods_without_card(files: StoreFiles, runs: Sequence[Run]) -> list[str]:
    """Return one line for each method with a valid result and no card."""
    described = {path.parent.resolve() for path in files.cards}
    folders = sorted({run.result_path.parent.parent.parent for run in runs})
    return [
        f"{folder / CARD}: missing; describe the method in Markdown (knbench submit --card)"
        for folder in folders
        if folder.resolve() not in described
    ]


def _look_alike(files: StoreFiles) -> list[str]:
    """Return one line for each method whose name looks like that of another method."""
    paths = [*files.results, *files.cards, *files.reported]
    depth = {path: len(path.relative_to(files.root).parts) for path in paths}
    names = sorted({path.relative_to(files.root).parts[0] for path in paths if depth[path] in (2, RESULT_DEPTH)})
    first: dict[str, str] = {}
    return [
        f"{files.root / name}: the name looks like '{first[skeleton(name)]}'; choose another name"
        for name in names
        if first.setdefault(skeleton(name), name) != name
    ]


def _validate_result(path: Path, tasks: Mapping[str, Task], found: _Findings, *, is_new: bool) -> None:
    found.claimed |= {path.parent / f"{path.stem}.{name}.gz" for name in LINE_FILES}
    try:
        run = _read(path)
        lines = _check_run(run, tasks, is_new=is_new)
        problems = [*found.unedited.differences(run, lines.records, lines.drift or ())]
    except Exception as error:
        found.add(path, error)
        return
    found.problems += problems
    if not problems:
        found.runs.append(run)


def _read(path: Path) -> Run:
    """Read a stored result and check its location and its files.

    Raises:
        KnbenchError: the result is broken, too large, limited or not on test cases, or at another location than its
            content demands; one of its files is missing, or it has others.
    """
    if not path.with_name(f"{path.stem}.{RECORDS}.gz").exists():
        raise KnbenchError(f"{path.with_name(path.stem)}.{RECORDS}.gz: missing; store the result again: knbench submit")
    run = stored_run(path)
    reason = refusal(run.result)
    if reason is not None:
        raise KnbenchError(f"{path}: {reason}")
    check_place(run)
    wanted = {path.parent / name for name in stored_names(run.result)}
    for part in wanted:
        if not part.exists():
            raise KnbenchError(f"{part}: missing; store the result again with: knbench submit")
        if part.stat().st_size > MAX_FILE_BYTES:
            raise KnbenchError(f"{part}: {part.stat().st_size >> 20} MB; at most {MAX_FILE_BYTES >> 20} MB are read")
    for name in LINE_FILES:
        other = path.parent / f"{path.stem}.{name}.gz"
        if other.exists() and other not in wanted:
            raise KnbenchError(f"{other}: does not belong to a result; delete it")
    return run


def _check_run(run: Run, tasks: Mapping[str, Task], *, is_new: bool) -> RunLines:
    """Recompute a result, compare its records with the task, and return its lines.

    Raises:
        KnbenchError: a text is too long or has a forbidden character; the result differs from its records, or the
            records from the task; a value is one that no model produces; a new result is on an old version of a task.
    """
    manifest = manifest_of(run.result)
    lines = read_run_lines(manifest, run.path)
    records, checkpoints, drift = lines.records, lines.checkpoints or (), lines.drift or ()
    flaw = text_flaw(records, checkpoints, drift)
    if flaw is not None:
        raise KnbenchError(f"{run.path(RECORDS)}: {flaw}; shorten or remove it")
    place = first_difference(run.result, score_lines(manifest, lines))
    if place is not None:
        raise KnbenchError(f"{run.result_path}: {place} differs from what the records give; store the result again")
    version = run.result.benchmark_version
    if is_new and _series(version) > _series(__version__):
        raise KnbenchError(f"{run.result_path}: /benchmark_version is {version}, which is newer than {__version__}")
    task = tasks.get(run.result.task.name)
    if task is None and is_new:
        raise KnbenchError(
            f"{run.result_path}: task '{run.result.task.name}' is not installed, and its questions cannot be checked; "
            "submit results on the tasks that 'knbench list tasks' prints"
        )
    if task is not None:
        if is_new and run.result.task.version != task.version:
            raise KnbenchError(
                f"{run.result_path}: taken on version {run.result.task.version} of task '{task.name}', which is now "
                f"version {task.version}; run it again"
            )
        asked = check_task(str(run.result_path), run.result, records, task)
        other = _other_description(run.result, task) if is_new else None
        if other is not None:
            raise KnbenchError(f"{run.result_path}: /task/{other} is not that of task '{task.name}'; run it again")
        flaw = selection_flaw(run.result, records, asked)
        if flaw is not None:
            raise KnbenchError(f"{run.result_path}: {flaw}")
    flaw = incomplete(records, checkpoints) or implausible(run.result, records, checkpoints)
    if flaw is not None:
        raise KnbenchError(f"{run.path(RECORDS)}: {flaw}")
    flaw = implausible_drift(drift)
    if flaw is not None:
        raise KnbenchError(f"{run.path(DRIFT)}: {flaw}")
    return lines


def _other_description(result: Result, task: Task) -> str | None:
    """Return the field of a task's card that differs from the installed task, or None. The site shows the card."""
    fields = ("title", "description", "licence", "citation", "relation", "criteria")
    found = next((name for name in fields if getattr(result.task, name) != getattr(task, name)), None)
    return "source" if not found and result.task.source != without_folders(task.source) else found


def _series(version: str) -> tuple[int, ...]:
    """Return the numbers of the release series of a version, which can be compared."""
    return tuple(int(part) for part in release_series(version).split(".") if part.isdigit())


def _notes(run: Run, tasks: Mapping[str, Task]) -> list[str]:
    """Return what readers of the board are told about a result."""
    task, records = run.result.task.name, run.result.records
    notes = []
    if task not in tasks:
        notes.append(f"{run.result_path}: task '{task}' is not installed; the questions were not checked")
    if records.failed:
        notes.append(f"{run.result_path}: {records.failed} of {records.cases} edits failed; counted as no edit")
    return notes
