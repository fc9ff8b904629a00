"""``knbench submit``, ``validate`` and ``unpack``: move results between run folders and the results store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from ..core import registry
from ..core.errors import KnbenchError
from ..core.files import json_text
from ..results.board_progress import board_progress
from ..results.boards import boards
from ..results.contribution import contribution
from ..results.layout import CARD, slug
from ..results.runs import find_runs
from ..results.store import store_card, store_run, unpack_run, write_status
from ..results.submission import runs_to_submit
from ..results.validation import Verdict, validate
from .options import JSON_FLAG


@click.command(
    "submit",
    epilog="\b\nExamples:\n  knbench submit runs/mine --card CARD.md\n"
    "  knbench submit runs/mine --results ../board/results\n",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--card", type=click.Path(path_type=Path), help="Markdown file that describes the method.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the results store; files are METHOD/MODEL/REVISION/TASK.json.",
)
def submit_command(runs: Sequence[Path], card: Path | None, results: Path) -> None:
    """Copy finished RUNS to the results store, with compressed records, and validate the store.

    Refuses unfinished runs, runs with --limit or on tuning cases, and editors whose settings differ between tasks.
    Stored results are never replaced. The last lines say which boards the method completes, and what is missing.
    To publish the results, commit the files and open a pull request.
    """
    found = runs_to_submit(runs, results)
    methods = sorted({run.result.editor.name for run in found})
    if card is not None:
        if len(methods) > 1:
            raise KnbenchError(
                f"--card describes one method, but the runs have {', '.join(methods)}; submit one method at a time"
            )
        store_card(card, methods[0], results)
    for method in methods:
        if not (results / slug(method) / CARD).exists():
            raise KnbenchError(
                f"'{method}' has no card in {results}; describe it in a Markdown file and pass --card FILE"
            )
    for run in found:
        click.echo(store_run(run, results))
    for method in methods:
        _report(results / slug(method), validate(results / slug(method), registry.tasks()), as_json=False)
    for line in board_progress(find_runs([results / slug(method) for method in methods]), boards()):
        click.echo(line)


@click.command(
    "validate",
    epilog="\b\nExamples:\n  knbench validate results\n  knbench validate results/my-method --json\n"
    "  knbench validate results --against origin/main\n",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--mark", is_flag=True, help="Write the valid results to FOLDER/status.json, which makes FOLDER a maintained store."
)
@click.option(
    "--against",
    metavar="COMMIT",
    help="Check in addition that the current branch only adds files, in the folder of one method, compared with its "
    "merge base with COMMIT.",
)
@JSON_FLAG
def validate_command(folder: Path, mark: bool, against: str | None, as_json: bool) -> None:
    """Check stored results: recompute them from their records and look for implausible values.

    Checks layout, schema, hashes, completeness, task versions, plausibility of the records, and agreement between
    results on the unedited model. Prints each problem with its location. Exits with status 2 if there is a problem.
    Needs no model.
    """
    if mark and against:
        raise KnbenchError("--mark and --against exclude each other")
    change = None if against is None else contribution(folder, against)
    verdict = validate(folder, registry.tasks(), change.added if change else ())
    if change is not None:
        problems, notes = [*change.problems, *verdict.problems], [*change.notes, *verdict.notes]
        verdict = replace(verdict, problems=problems, notes=notes)
    if mark:  # the valid results, whatever problems the others have
        write_status(folder, verdict.results)
    _report(folder, verdict, as_json)


@click.command("unpack", epilog="\b\nExample:\n  knbench unpack results --output runs/results\n")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the run folders.",
)
def unpack_command(results: Path, output: Path) -> None:
    """Restore run folders from stored RESULTS. knbench run continues them without repeating stored cases.

    Existing run folders are not changed.
    """
    written = [unpack_run(run, output) for run in find_runs([results]) if run.stem]
    click.echo(f"{output}: {sum(written)} run folders written, {len(written) - sum(written)} already exist")


def _report(folder: Path, verdict: Verdict, as_json: bool) -> None:
    """Print the outcome of a validation.

    Raises:
        KnbenchError: there are problems.
    """
    if as_json:
        document = {
            "results": [str(run.result_path) for run in verdict.results],
            "problems": list(verdict.problems),
            "notes": list(verdict.notes),
        }
        click.echo(json_text(document), nl=False)
    else:
        for note in verdict.notes:
            click.echo(f"note: {note}")
        for problem in verdict.problems:
            click.echo(f"error: {problem}")
    if verdict.problems:
        raise KnbenchError(f"{folder}: {len(verdict.problems)} problems, {len(verdict.results)} valid results")
    if not as_json:
        click.echo(f"{folder}: {len(verdict.results)} valid results")
