"""Cards of methods, Markdown from submissions as sanitised HTML, and the numbers that papers report for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nh3
from markdown_it import MarkdownIt

from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.documents import OnBroken, reraise
from ..benchmark.results.layout import find_stores
from ..benchmark.results.store import read_card, read_reported

TAGS = {
    "a", "b", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol", "p", "pre", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip


def card_html(text: str) -> str:
    """Render Markdown as HTML without scripts, images or other elements that execute or load anything.

    HTML in the Markdown is escaped. The rendered HTML is sanitised once more by nh3. Images are not rendered, because
    a browser would load them from another host.
    """
    html = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text)
    # Headings of levels 1 and 2 belong to the page.
    for level in (4, 3, 2, 1):
        html = html.replace(f"<h{level}>", f"<h{level + 2}>").replace(f"</h{level}>", f"</h{level + 2}>")
    return nh3.clean(html, tags=TAGS, attributes={"a": {"href"}}, url_schemes={"https", "http", "mailto"})


def cards_in(roots: Sequence[Path], on_broken: OnBroken = reraise) -> dict[str, str]:
    """Return the cards of methods as HTML, by the name of their folder.

    Args:
        roots: results stores.
        on_broken: called with the error of each card that cannot be read, is empty or too large.
    """
    cards = {}
    for path in sorted(path for root in roots for store in find_stores(root) for path in store.cards):
        try:
            cards[path.parent.name] = card_html(read_card(path))
        except KnbenchError as error:
            on_broken(error)
    return cards


def reported_in(roots: Sequence[Path], on_broken: OnBroken = reraise) -> list[Mapping[str, Any]]:
    """Return the reported numbers of methods, in the order of their files.

    Args:
        roots: results stores.
        on_broken: called with the error of each file that cannot be read or is in the folder of another method.
    """
    found = []
    for path in sorted(path for root in roots for store in find_stores(root) for path in store.reported):
        try:
            found.append(read_reported(path))
        except KnbenchError as error:
            on_broken(error)
    return found
