"""``knbench site build``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .build import build_site


@click.group()
def site() -> None:
    """Build the leaderboard's static pages from results."""


@site.command(
    epilog="\b\nExamples:\n  knbench site build runs/first\n  knbench site build results --title 'Our board'\n"
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path),
    default=Path("site"),
    show_default=True,
    help="Folder to write; a site that is already there is replaced.",
)
@click.option("--title", default="KNBench", show_default=True, help="Heading of the site.")
def build(results: Sequence[Path], output: Path, title: str) -> None:
    """Render RESULTS, run folders at any depth, as a site that opens from disk or from any host."""
    index = build_site(list(results), output, title=title)
    click.echo(f"Site: {index}")
