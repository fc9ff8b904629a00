"""``knbench score``: recompute results from records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core import registry
from ..core.errors import KnbenchError
from ..core.files import json_text
from ..core.records import to_json
from ..scoring.protocols import unstored_measures
from .options import ALL_COLUMNS_OPTION, JSON_FLAG, PROTOCOL_OPTION

if TYPE_CHECKING:
    from ..core.documents import Manifest, Result
    from ..core.records import Record
    from ..core.schema import Task

EXAMPLES = """
\b
Examples:
  knbench score runs/first
  knbench score runs/first --protocol paper
  knbench score runs/first --protocol counterfact-code
  knbench score runs/first --effects
  knbench score results/rome --markdown
  knbench score runs/first --json
"""


@dataclass(frozen=True)
class _Source:
    """A result on disk and the files that it is computed from.

    Attributes:
        location: run folder, or path of a stored result; for messages.
        result_path: path of the result, which may not exist in a run folder.
        manifest: settings of the run.
        path_of: returns the path of a file of JSON lines by its name.
        stored: whether the result belongs to a results store, which ``--write`` does not change.
    """

    location: Path
    result_path: Path
    manifest: Manifest
    path_of: Callable[[str], Path]
    stored: bool


@click.command("score", epilog=EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Replace results in run folders that differ from their records.")
@click.option("--any-version", is_flag=True, help="Also score records of another version of their task.")
@PROTOCOL_OPTION
@ALL_COLUMNS_OPTION
@click.option("--effects", is_flag=True, help="For linguistic tasks, also show the effect of edits on single words.")
@click.option("--markdown", is_flag=True, help="Print tables as Markdown.")
@JSON_FLAG
def score_command(
    folders: Sequence[Path],
    write: bool,
    any_version: bool,
    protocol: str,
    all_columns: bool,
    effects: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    """Recompute results from records, without a model, and compare them with the stored results.

    FOLDERS are searched recursively for run folders and stored results. It is an error if a result differs from the one
    computed from its records (--write replaces it), or if the records differ from the task's cases.
    """
    sources = _find_sources(folders)
    tasks = {} if any_version else registry.tasks()
    rescored = [_rescore(source, tasks, unstored_measures(protocol), write=write) for source in sources]
    results, records = [result for result, _ in rescored], [found for _, found in rescored]
    if as_json:
        click.echo(json_text([to_json(result) for result in results]), nl=False)
        return
    from .result_tables import markdown_results, print_effects, print_results

    if markdown:
        click.echo(markdown_results(results, protocol, records, all_columns=all_columns), nl=False)
    else:
        print_results(results, protocol, records, all_columns=all_columns)
    if effects:
        print_effects(results)


def _find_sources(folders: Sequence[Path]) -> list[_Source]:
    """Return all run folders, which have a manifest, and all stored results, which contain theirs.

    Raises:
        KnbenchError: nothing is found, a manifest or stored result is broken, or a run folder has no manifest.
    """
    from ..results.documents import load_manifest, manifest_of
    from ..results.io import MANIFEST, RECORDS, RESULT
    from ..results.runs import check_manifests, find_runs

    check_manifests(folders)
    sources = [
        _Source(path.parent, path.parent / RESULT, load_manifest(path), partial(Path, path.parent), stored=False)
        for folder in folders
        for path in sorted(folder.rglob(MANIFEST))
    ]
    packed = [folder for folder in folders if any(folder.rglob(f"*.{RECORDS}.gz"))]
    for run in find_runs(packed) if packed else []:
        if run.stem:
            path = run.result_path
            sources.append(_Source(path, path, manifest_of(run.result), run.path, stored=True))
    if not sources:
        raise KnbenchError(
            f"no {MANIFEST} below {', '.join(map(str, folders))}; make one with: knbench run --output ..."
        )
    return sources


def _rescore(
    source: _Source, tasks: dict[str, Task], measures: Sequence[str], *, write: bool
) -> tuple[Result, Sequence[Record]]:
    """Compute a result from its records and compare it with the stored one, or write it.

    The returned records have the observations after the last edit.

    Args:
        source: the result.
        tasks: registered tasks by name. Records of other tasks are not compared with a task.
        measures: measures to add to the returned result, which results do not store.
        write: whether to replace a result that differs.

    Raises:
        KnbenchError: the result differs from its records, or the records differ from their task.
    """
    from ..results.audit import check_task
    from ..results.documents import first_difference, load_result, write_result
    from ..results.rescoring import read_run_lines, score_lines
    from ..scoring.summary import with_measures

    lines = read_run_lines(source.manifest, source.path_of)
    result, final = score_lines(source.manifest, lines), lines.final_records()
    task = tasks.get(result.task.name)
    if task is not None:
        check_task(str(source.location), result, lines.records, task)
    if not source.stored and (write or not source.result_path.exists()):
        write_result(source.location, result)
        return with_measures(result, final, measures), final
    pointer = first_difference(load_result(source.result_path), result)
    if pointer is not None:
        fix = "submit the run again" if source.stored else f"run: knbench score {source.location} --write"
        raise KnbenchError(f"{source.result_path}: {pointer} differs from the value computed from the records; {fix}")
    return with_measures(result, final, measures), final
