"""``knbench submit`` and ``knbench validate``: from a finished run to a pull request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from ..core import registry
from ..core.errors import KnbenchError
from ..core.files import json_text
from ..results.documents import comparable
from ..results.runs import Run, find_runs
from ..results.store import CARD, slug, store_card, store_run, unpack_run, write_status
from ..results.validation import Verdict, agrees, validate


@click.command(
    "submit",
    epilog="\b\nExamples:\n  knbench submit runs/mine --card CARD.md\n"
    "  knbench submit runs/mine --results ../board/results\n",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--card", type=click.Path(path_type=Path), help="Markdown that says what the method does.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="The store: results/METHOD/MODEL/REVISION/TASK.json.",
)
def submit_command(runs: Sequence[Path], card: Path | None, results: Path) -> None:
    """Put finished RUNS into the results store, with records packed beside, and validate them there.

    What is already stored is never replaced. Commit the files and open a pull request.
    """
    found = find_runs(runs)
    methods = sorted({run.result["editor"]["name"] for run in found})
    if card is not None:
        if len(methods) > 1:
            raise KnbenchError(f"a card is of one method; these runs are of {', '.join(methods)}: submit one at a time")
        store_card(card, methods[0], results)
    for method in methods:
        if not (results / slug(method) / CARD).exists():
            raise KnbenchError(f"'{method}' has no card in {results}; write one in Markdown and name it with --card")
    for run in found:
        click.echo(store_run(run, results))
    for method in methods:
        _report(results / slug(method), as_json=False)


@click.command(
    "validate", epilog="\b\nExamples:\n  knbench validate results\n  knbench validate results/my-method --json\n"
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--mark", is_flag=True, help="Note in FOLDER/status.json which results are good; the board shows it.")
@click.option(
    "--rerun",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Runs of one's own: stored results that they bear out are noted as run again. Needs --mark.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of lines.")
def validate_command(folder: Path, mark: bool, rerun: Sequence[Path], as_json: bool) -> None:
    """Check stored results: score them again from their records, and look for what cannot be.

    Schema, hashes, completeness, task versions, plausibility of the records, agreement on the unedited model. Prints
    each problem with its place and exits with 2 where there is any. Needs no model.
    """
    if rerun and not mark:
        raise KnbenchError("--rerun notes what it finds, and needs --mark")
    verdict = _report(folder, as_json)
    if mark:
        write_status(folder, verdict.results, _borne_out(verdict.results, find_runs(rerun) if rerun else []))


def _borne_out(stored: Sequence[Run], again: Sequence[Run]) -> list[Path]:
    """Return the paths of the stored results that a run agrees with, and tell of those that none does."""
    ways = {_way(run): run for run in again}
    paths = []
    for run in stored:
        other = ways.get(_way(run))
        if other is not None:
            flaw = agrees(run, other)
            if flaw is None:
                paths.append(run.where)
            else:
                click.echo(f"note: {other.where} does not bear out {run.where}: {flaw}", err=True)
    return paths


def _way(run: Run) -> str:
    return json.dumps([run.result["editor"]["name"], run.result["editor"]["config"], comparable(run.result)])


@click.command("unpack", epilog="\b\nExample:\n  knbench unpack results --output runs/results\n")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--output", "--output_path", type=click.Path(path_type=Path), required=True, help="Folder of run folders."
)
def unpack_command(results: Path, output: Path) -> None:
    """Lay stored RESULTS out as run folders, which knbench run continues: what is stored is not run again.

    Run folders that are there already are left as they are.
    """
    laid = [unpack_run(run, output) for run in find_runs([results]) if run.stem]
    click.echo(f"{output}: {sum(laid)} run folders laid out, {len(laid) - sum(laid)} were there")


def _report(folder: Path, as_json: bool) -> Verdict:
    verdict = validate(folder, registry.tasks())
    if as_json:
        found = {"results": [str(run.where) for run in verdict.results], "problems": list(verdict.problems)}
        click.echo(json_text({**found, "notes": list(verdict.notes)}), nl=False)
    else:
        for note in verdict.notes:
            click.echo(f"note: {note}")
        for problem in verdict.problems:
            click.echo(f"mend: {problem}")
    if verdict.problems:
        raise KnbenchError(f"{folder}: {len(verdict.problems)} to mend, {len(verdict.results)} results are good")
    if not as_json:
        click.echo(f"{folder}: {len(verdict.results)} results are good")
    return verdict
