"""The commands ``knbench site`` and ``knbench plot``."""

from __future__ import annotations

import functools
import http.server
from collections.abc import Sequence
from pathlib import Path

import click

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.files import write_text
from ..benchmark.core.printable import printable
from ..benchmark.results.runs import Run, find_runs
from .build import build_site


@click.group()
def site() -> None:
    """Build and serve the static pages of the leaderboard."""


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
    help="Output folder. An existing site is replaced.",
)
@click.option("--title", default="KNBench", show_default=True, help="Title of the site.")
@click.option(
    "--url",
    default="",
    help="Address that the site will have, such as https://example.org/board/. With it, the feed and the preview have "
    "absolute links, and sitemap.xml is written.",
)
@click.option("--check-controls", is_flag=True, help="Fail if a control scores more than it must on a board.")
def build(results: Sequence[Path], output: Path, title: str, url: str, check_controls: bool) -> None:
    """Render the run folders below RESULTS as a static site, which works from disk and on any host.

    Broken results are reported and left out. The site is still built, and the exit status is 2.

    A board on which a control (none, random, destroyed, parrot, logit-bias) scores more than it must shows a warning,
    which is also printed here. With --check-controls the exit status is then 2, too.
    """
    if url and not url.startswith(("https://", "http://")):
        raise KnbenchError(f"--url '{url}': not an address; write it with https://")
    errors: list[str] = []
    violations: list[str] = []
    index = build_site(
        list(results),
        output,
        title=title,
        url=url,
        on_broken=lambda error: errors.append(str(error)),
        on_violation=violations.append,
    )
    click.echo(f"Site: {index}")
    for error in errors:
        click.echo(f"knbench: left out: {printable(error)}", err=True)
    for violation in violations:
        click.echo(f"knbench: do not trust the board {printable(violation)}", err=True)
    if errors or (violations and check_controls):
        raise click.exceptions.Exit(2)


@site.command(epilog="\b\nExample:\n  knbench site serve site\n")
@click.argument("folder", default="site", type=click.Path(path_type=Path))
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 selects a free port.")
def serve(folder: Path, port: int) -> None:
    """Serve a built site on localhost until interrupted. The site also works without a server, from its index.html."""
    if not (folder / "index.html").exists():
        raise KnbenchError(f"no site in '{folder}'; build one with: knbench site build results --output {folder}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise KnbenchError(f"port {port}: {error.strerror}; choose another --port, or 0 for a free one") from None
    with server:
        click.echo(f"Site: http://127.0.0.1:{server.server_address[1]}/ (stop with Ctrl-C)")
        server.serve_forever()


@click.command(
    "plot",
    epilog="\b\nExamples:\n"
    "  knbench plot runs/sequential --output retention.svg\n"
    "  knbench plot runs/all --output gain.svg\n",
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--measure", default="success", show_default=True, help="Measure of the criteria.")
@click.option("--output", "--output_path", type=click.Path(path_type=Path), required=True, help="SVG file to write.")
def plot(results: Sequence[Path], measure: str, output: Path) -> None:
    """Plot results: retention of sequential runs, or gain against preservation.

    RESULTS are folders with run folders at any depth. Sequential runs, of one task and any number of editors, are
    plotted against the number of edits, with their drift. Other runs, of any number of tasks, give one point per editor
    and contours of the edit score.
    """
    from ..benchmark.results.figures import retention_figure

    runs = find_runs(results)
    sequential = [run.result.curve is not None for run in runs]
    if any(sequential) and not all(sequential):
        raise KnbenchError("these folders hold sequential runs and others; pass the folders of one regime")
    if any(sequential):
        write_text(output, retention_figure([run.result for run in runs], measure))
    else:
        write_text(output, _gain_figure(runs))
    click.echo(f"Figure: {output}")


def _gain_figure(runs: Sequence[Run]) -> str:
    """Draw the editors of some runs by gain and preservation over the tasks that all of them have."""
    from ..benchmark.results.comparison import group_by_task
    from ..benchmark.results.edit_scores import complete_methods, rank_by_edit_score
    from ..benchmark.results.score_figure import ScorePoint, score_figure

    groups = group_by_task(runs)
    rows = rank_by_edit_score(complete_methods([group.case_values for group in groups]), ranked=False)
    if not rows:
        raise KnbenchError("no editor has an edit score on all tasks of these folders; pass folders of the same tasks")
    return score_figure([ScorePoint.of(row) for row in rows])
