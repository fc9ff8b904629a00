"""``knbench site`` and ``knbench plot``."""

from __future__ import annotations

import functools
import http.server
from collections.abc import Sequence
from pathlib import Path

import click

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.files import write_text
from ..benchmark.results.runs import find_runs
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
    """Render RESULTS, run folders at any depth, as a site that opens from disk or from any host.

    What is broken is named and left out; the exit status is then 2, and the site is built all the same.
    """
    left_out: list[str] = []
    index = build_site(list(results), output, title=title, broken=lambda error: left_out.append(str(error)))
    click.echo(f"Site: {index}")
    for complaint in left_out:
        click.echo(f"knbench: left out: {' '.join(complaint.split())}", err=True)
    if left_out:
        raise click.exceptions.Exit(2)


@site.command(epilog="\b\nExample:\n  knbench site serve site\n")
@click.argument("folder", default="site", type=click.Path(path_type=Path))
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
def serve(folder: Path, port: int) -> None:
    """Show a built site on this machine alone, until interrupted; opening its index.html does as well."""
    if not (folder / "index.html").exists():
        raise KnbenchError(f"no site in '{folder}'; build one with: knbench site build results --output {folder}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise KnbenchError(f"port {port}: {error.strerror}; choose another --port, or 0 for a free one") from None
    with server:
        click.echo(f"Site: http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends)")
        server.serve_forever()


@click.command(
    "plot",
    epilog="\b\nExamples:\n  knbench plot runs/sequential --output retention.svg\n",
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--measure", default="success", show_default=True, help="Which measure of the criteria to draw.")
@click.option("--output", "--output_path", type=click.Path(path_type=Path), required=True, help="SVG file to write.")
def plot(results: Sequence[Path], measure: str, output: Path) -> None:
    """Draw what becomes of sequential edits and of the model under them.

    RESULTS are run folders, at any depth, of one task and of any number of editors.
    """
    from ..benchmark.results.figures import retention_figure

    write_text(output, retention_figure([run.result for run in find_runs(results)], measure))
    click.echo(f"Figure: {output}")
