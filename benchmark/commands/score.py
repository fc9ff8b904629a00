"""``knbench score``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..core import registry
from ..core.errors import KnbenchError
from ..core.files import json_text
from .options import JSON_FLAG, PROTOCOL_OPTION


@click.command(
    "score", epilog="\b\nExamples:\n  knbench score runs/first --protocol paper\n  knbench score runs/first --json\n"
)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Replace a result that differs from its records.")
@click.option("--any-version", is_flag=True, help="Also score what was taken on another version of its task.")
@PROTOCOL_OPTION
@click.option("--effects", is_flag=True, help="Of linguistic tasks, also what the edits do to single words.")
@click.option("--markdown", is_flag=True, help="Print tables as Markdown.")
@JSON_FLAG
def score_command(
    folders: Sequence[Path],
    write: bool,
    any_version: bool,
    protocol: str,
    effects: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    """Recompute results from records, without a model, and compare them with the stored ones.

    FOLDERS are run folders, at any depth. A stored result that its records do not give is an error, unless --write
    replaces it; and so are records that do not ask what their task asks.
    """
    from ..results.audit import check_task
    from ..results.documents import differing, load_result, manifest_of, write_result
    from ..results.io import MANIFEST, RECORDS, RESULT, read_json, read_records
    from ..results.rescoring import score_files
    from ..results.runs import find_runs

    # A run folder has its manifest; a stored result is its own.
    found: list[tuple[Path, Path, Mapping[str, Any], Callable[[str], Path]]] = [
        (path.parent, path.parent / RESULT, read_json(path), partial(Path, path.parent))
        for folder in folders
        for path in sorted(folder.rglob(MANIFEST))
    ]
    packed = [folder for folder in folders if any(folder.rglob(f"*.{RECORDS}.gz"))]
    stored = [run for run in (find_runs(packed) if packed else []) if run.stem]
    found += [(run.where, run.where, manifest_of(run.result), run.path) for run in stored]
    if not found:
        raise KnbenchError(
            f"no {MANIFEST} below {', '.join(map(str, folders))}; make one with: knbench run --output ..."
        )
    tasks = registry.tasks()
    results = []
    for where, path, manifest, path_of in found:
        result = score_files(manifest, path_of)
        task = tasks.get(result["task"]["name"])
        if task is not None and not any_version:
            check_task(str(where), result, read_records(path_of(RECORDS)), task)
        if path.name == RESULT and (write or not path.exists()):
            write_result(path.parent, result)
        elif (place := differing(load_result(path), result)) is not None:
            raise KnbenchError(f"{path}: {place} is not what the records give; run: knbench score {where} --write")
        results.append(result)
    if as_json:
        click.echo(json_text(results), nl=False)
        return
    from .terminal import markdown_results, print_effects, print_results

    if markdown:
        click.echo(markdown_results(results, protocol), nl=False)
    else:
        print_results(results, protocol)
    if effects:
        print_effects(results)
