"""Cards of methods: Markdown from submissions as sanitised HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nh3
from markdown_it import MarkdownIt

from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.documents import OnBroken, reraise
from ..benchmark.results.store import CARD, read_card

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
    for path in sorted(path for root in roots for path in root.rglob(CARD)):
        try:
            cards[path.parent.name] = card_html(read_card(path))
        except KnbenchError as error:
            on_broken(error)
    return cards
