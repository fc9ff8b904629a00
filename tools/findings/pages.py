"""Blocks of a page that are computed: ``<!-- begin NAME -->`` to ``<!-- end NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

BLOCK = re.compile(r"(<!-- begin ([\w ,.=-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

MISSING = "*No stored results yet.*\n"
"""Text of a block without results."""


class UnknownBlockError(ValueError):
    """A page asks for a block that does not exist."""


def filled(text: str, blocks: Mapping[str, Callable[..., str]], path: Path) -> str:
    """Return a page with its blocks computed again.

    A block is named by a function and its arguments, as in ``<!-- begin gains kind=fact -->``.

    Args:
        text: the page.
        blocks: by name, a function that returns Markdown. It takes the arguments as texts.
        path: path of the page, for messages.

    Raises:
        UnknownBlockError: a block does not exist, or does not take an argument.

    >>> filled("a\\n<!-- begin twice x=2 -->\\nold\\n<!-- end -->\\nb", {"twice": lambda x: x * 2}, Path("page"))
    'a\\n<!-- begin twice x=2 -->\\n22\\n<!-- end -->\\nb'
    """

    def replaced(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        try:
            found = blocks[name](**dict(argument.split("=", 1) for argument in arguments))
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownBlockError(f"{path}: block '{match[2]}': {type(error).__name__}: {error}") from error
        return f"{match[1]}{found.rstrip() or MISSING.rstrip()}\n{match[3]}"

    return BLOCK.sub(replaced, text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """Return a Markdown table whose first ``left`` columns are aligned to the left. Empty without rows.

    >>> print(table(["method", "score"], [["rome", "8"]]))
    | method | score |
    | --- | ---: |
    | rome | 8 |
    <BLANKLINE>
    """
    names, lines = list(head), [list(row) for row in rows]
    if not lines:
        return ""
    align = ["---" if n < left else "---:" for n in range(len(names))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (names, align, *lines))


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a share in percent with its interval.

    >>> percent(0.514, 0.42, 0.6), percent(0.0), percent(None)
    ('51 [42-60]', '0', '-')
    """
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" [{100 * low:.0f}-{100 * high:.0f}]"
    return f"{100 * value:.0f}{interval}"
