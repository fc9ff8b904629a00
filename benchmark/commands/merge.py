"""``knbench merge``: unite the parts of a run that independent jobs measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..core.errors import KnbenchError
from ..core.files import json_text
from ..core.records import to_json
from .options import JSON_FLAG

EXAMPLES = """
\b
Examples:
  knbench run --editors rome,memit --tasks capital --shard 1/2 --output runs/capital
  knbench run --editors rome,memit --tasks capital --shard 2/2 --output runs/capital
  knbench merge runs/capital
"""


@click.command("merge", epilog=EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the united run folders. [default: the folder, if one is given]",
)
@JSON_FLAG
def merge_command(folders: Sequence[Path], output: Path | None, as_json: bool) -> None:
    """Unite the parts of a run that were measured with --shard below FOLDERS, and compute the results.

    The records are those of a run in one process. The parts are kept.
    """
    from ..running.shards import merge

    if output is None and len(folders) > 1:
        raise KnbenchError("several folders are merged; choose a folder for the result with --output")
    runs = merge(folders, output or folders[0])
    if as_json:
        click.echo(json_text([to_json(run.result) for run in runs]), nl=False)
        return
    for run in runs:
        click.echo(f"{run.folder}: {run.result.records.cases} cases")
