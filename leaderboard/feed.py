"""The Atom feed of new results, the sitemap, and the picture that other sites show beside a link."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from xml.etree import ElementTree

from .entries import Entry
from .paths import result_page
from .standings import Standings

ATOM = "http://www.w3.org/2005/Atom"
SITEMAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
MAX_ENTRIES = 50
"""Number of results in the feed, the newest first."""
MAX_BARS = 12
"""Number of methods in the preview."""
PREVIEW_INCHES, PREVIEW_DPI = (12.0, 6.3), 100
"""Size of the preview: 1200 x 630 pixels, as other sites expect it."""


def atom_feed(title: str, entries: Iterable[Entry], url: str) -> str:
    """Return the feed of the newest results. The date of a result is that of its file.

    Args:
        title: title of the site.
        entries: the results.
        url: address of the site, which ends with a slash; empty for relative links.
    """
    dated = [(_date(entry), result_page(entry.result), entry) for entry in entries]
    dated.sort(key=lambda item: (item[0], item[1]), reverse=True)
    newest = dated[:MAX_ENTRIES]
    feed = ElementTree.Element("feed", xmlns=ATOM)
    _child(feed, "title", f"{title}: new results")
    _child(feed, "id", url or "urn:knbench:site")
    _child(feed, "updated", newest[0][0] if newest else _iso(0.0))
    ElementTree.SubElement(feed, "link", href=url or "./")
    ElementTree.SubElement(feed, "link", rel="self", href=f"{url}feed.xml")
    _child(ElementTree.SubElement(feed, "author"), "name", title)
    for date, page, entry in newest:
        result = entry.result
        item = ElementTree.SubElement(feed, "entry")
        _child(item, "title", f"{result.editor.name} on {result.task.title}, {result.model.name}")
        _child(item, "id", f"urn:sha256:{result.records.sha256}:{page}")
        _child(item, "updated", date)
        ElementTree.SubElement(item, "link", href=f"{url}{page}")
        score = result.edit_score
        words = f"Edit score {100 * score.value:.1f}. " if score else ""
        _child(item, "summary", f"{words}{result.records.cases} cases, {entry.trust.words}.")
    return _document(feed)


def _date(entry: Entry) -> str:
    return _iso(entry.run.result_path.stat().st_mtime)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def sitemap(pages: Iterable[str], url: str) -> str:
    """Return the sitemap of some pages, which needs the address of the site."""
    root = ElementTree.Element("urlset", xmlns=SITEMAP)
    for page in sorted(pages):
        _child(ElementTree.SubElement(root, "url"), "loc", url + page.removesuffix("index.html"))
    return _document(root)


def _child(parent: ElementTree.Element, name: str, text: str) -> None:
    # Control characters of a name are not allowed in XML.
    ElementTree.SubElement(parent, name).text = "".join(c if c.isprintable() else " " for c in text)


def _document(root: ElementTree.Element) -> str:
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def preview(title: str, words: str, found: Standings) -> bytes:
    """Draw the best methods of a table as bars, as a PNG file.

    Args:
        title: title of the site.
        words: board, model and regime.
        found: the table.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: Sequence[tuple[str, float]] = [
        (row.method, 100 * row.scored.value) for row in found.rows if row.scored and row.kind != "control"
    ][:MAX_BARS]
    figure = Figure(figsize=PREVIEW_INCHES, dpi=PREVIEW_DPI, facecolor="#ffffff")
    axis = figure.add_axes((0.19, 0.1, 0.76, 0.66))
    names, values = [name[:24] for name, _ in rows], [value for _, value in rows]
    axis.barh(range(len(rows)), values, color="#1f5fae")
    axis.set_yticks(range(len(rows)), names, fontsize=15, parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.tick_params(length=0, labelsize=14)
    axis.spines[["top", "right", "left"]].set_visible(False)
    for number, value in enumerate(values):
        axis.text(value + 1, number, f"{value:.0f}", va="center", fontsize=14)
    figure.text(0.03, 0.9, title[:40], fontsize=30, weight="bold", parse_math=False)
    figure.text(0.03, 0.82, f"Edit score, {words}"[:90], fontsize=17, color="#444444", parse_math=False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()
