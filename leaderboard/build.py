"""Builds the site: static files with relative links, which work from disk, offline and below any URL path."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.files import gc_paused
from ..benchmark.results.boards import Board
from ..benchmark.results.boards import boards as installed_boards
from ..benchmark.results.documents import OnBroken, reraise
from ..benchmark.results.layout import find_stores
from ..benchmark.results.runs import find_runs
from .render import SiteRenderer

MARKER = "knbench-site"
"""File that marks a folder as a site of knbench, which may be replaced."""


def build_site(
    results: Sequence[Path],
    output: Path,
    *,
    title: str = "KNBench",
    url: str = "",
    boards: Mapping[str, Board] | None = None,
    on_broken: OnBroken = reraise,
    on_violation: Callable[[str], object] = lambda _: None,
) -> Path:
    """Build the site of the results below some folders.

    The site is built in a temporary folder and then moved to ``output``. A failure leaves an existing site unchanged.

    Args:
        results: folders that are searched for results, cards, analyses and reported numbers.
        output: folder of the site. An existing site is replaced.
        title: title of the site.
        url: address that the site will have, for its feed, sitemap and preview; empty if it is unknown.
        boards: definitions of boards by their keys; None for the installed ones.
        on_broken: called with the error of each file that cannot be shown. If it does not raise, the site is built
            without the file.
        on_violation: called with a sentence for each board whose controls score more than they must.

    Returns:
        The path of the front page.

    Raises:
        KnbenchError: there is no result, two results belong to the same row, or ``output`` is a non-empty folder
            without a site.
    """
    definitions = installed_boards() if boards is None else boards
    runs = find_runs(results, on_broken)
    for stray in (stray for root in results for store in find_stores(root) for stray in store.strays):
        on_broken(KnbenchError(stray))
    if output.exists() and not (output / MARKER).exists() and (not output.is_dir() or any(output.iterdir())):
        raise KnbenchError(f"'{output}' is not empty and not a site of knbench; choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        new = Path(work) / "site"
        with gc_paused():
            renderer = SiteRenderer(new, title, results, definitions, on_broken, url)
            scratch = Path(work) / "scratch"
            scratch.mkdir()
            for violation in renderer.render(runs, scratch):
                on_violation(violation)
        (new / MARKER).write_text("Built by knbench. The next build replaces this folder.\n", encoding="utf-8")
        new.chmod(0o755)
        _replace(new, output, Path(work) / "old")
    return output / "index.html"


def _replace(new: Path, output: Path, backup: Path) -> None:
    """Move a folder to ``output``. An existing ``output`` is restored if that fails."""
    if output.exists():
        output.rename(backup)
    try:
        new.rename(output)
    except OSError:
        if backup.exists():
            backup.rename(output)
        raise
