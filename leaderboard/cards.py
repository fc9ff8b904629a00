"""Cards and reported numbers: what people write of a method, shown so that it can do no harm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nh3
from markdown_it import MarkdownIt

from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.documents import Broken, refuse
from ..benchmark.results.store import CARD, read_card

TAGS = {
    "a", "b", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol", "p", "pre", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip


def card_html(text: str) -> str:
    """Return a card's Markdown as HTML without anything that runs, loads or leaves the page by itself.

    Markdown's own HTML is not read; what is made of it is cleaned once more by a library made for that. Images are
    left out, since they would be fetched from elsewhere.
    """
    html = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text)
    # A page has its own first and second headings.
    for level in (4, 3, 2, 1):
        html = html.replace(f"<h{level}>", f"<h{level + 2}>").replace(f"</h{level}>", f"</h{level + 2}>")
    return nh3.clean(html, tags=TAGS, attributes={"a": {"href"}}, url_schemes={"https", "http", "mailto"})


def cards_in(roots: Sequence[Path], broken: Broken = refuse) -> dict[str, str]:
    """Return the methods' cards as HTML, by the name of the folder they lie in.

    Args:
        roots: the stores.
        broken: told of each that cannot be read, is empty or too large.
    """
    found = {}
    for path in sorted(path for root in roots for path in root.rglob(CARD)):
        try:
            found[path.parent.name] = card_html(read_card(path))
        except KnbenchError as error:
            broken(error)
    return found
