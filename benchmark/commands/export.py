"""``knbench export``: results in the formats of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..core.errors import KnbenchError

EXAMPLES = """\b
Examples:
  knbench export runs/first --format parquet --output first.parquet
  knbench export results --format lm-eval --output lm_eval
  knbench export runs/first --push-to-hub my-name/edits
"""


@click.command("export", epilog=EXAMPLES)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(("parquet", "lm-eval", "every-eval-ever")),
    help="parquet: one row per probe. lm-eval: a results.json per model and editor. every-eval-ever: a document per "
    "result in the schema of Every Eval Ever.",
)
@click.option(
    "--output", "--output_path", type=click.Path(path_type=Path), help="File of --format parquet; otherwise a folder."
)
@click.option("--push-to-hub", metavar="NAME/DATASET", help="Push one row per probe to a Hugging Face data set.")
@click.option("--public", is_flag=True, help="Make a new data set of --push-to-hub public.")
def export_command(
    results: Sequence[Path], form: str | None, output: Path | None, push_to_hub: str | None, public: bool
) -> None:
    """Write the results below the folders RESULTS in the format of another tool."""
    if (form is None) != (output is None):
        raise KnbenchError("--format and --output belong together; give both, or --push-to-hub alone")
    if form is None and push_to_hub is None:
        raise KnbenchError("nothing to do; give --format and --output, or --push-to-hub")
    from ..api import exports
    from ..api.results import load_results

    found = load_results(*results)
    if form is not None and output is not None:
        paths = exports.export(found, next(name for name in exports.FORMATS if name == form), output)
        click.echo(f"{len(paths)} {'file' if len(paths) == 1 else 'files'} written: {output}")
    if push_to_hub is not None:
        click.echo(f"Pushed: {exports.push_to_hub(found, push_to_hub, private=not public)}")
