"""Characters that must not reach a terminal, a report or a name: control, bidirectional and unpaired surrogate ones."""

from __future__ import annotations

import re

_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb"
_BIDIRECTIONAL = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_OTHER = r"\ufeff\ud800-\udfff\U000e0000-\U000e007f"  # byte order mark, surrogates, invisible tags
_FORBIDDEN = re.compile(f"[{_CONTROL}{_BIDIRECTIONAL}{_OTHER}]")
_FORBIDDEN_IN_LINES = re.compile(f"[\t\n{_CONTROL}{_BIDIRECTIONAL}{_OTHER}]")


def forbidden_character(text: str, *, line: bool = False) -> str | None:
    """Return the escape of the first forbidden character of a text, or None.

    Args:
        text: the text.
        line: whether line breaks and tabs are forbidden as well.

    >>> forbidden_character("a\\x1b[2J"), forbidden_character("two\\nlines"), forbidden_character("a\\nb", line=True)
    ('\\\\x1b', None, '\\\\x0a')
    """
    found = (_FORBIDDEN_IN_LINES if line else _FORBIDDEN).search(text)
    return None if found is None else _escape(found[0])


def printable(text: str) -> str:
    """Return a text as one line that is safe to print: white space becomes one blank, other characters are escaped.

    >>> printable("results/a\\x1b[2J\\nb\\u202e.json")
    'results/a\\\\x1b[2J b\\\\u202e.json'
    """
    # str.split() also splits at some separators, which an attacker may use to hide a character.
    return _FORBIDDEN_IN_LINES.sub(lambda found: _escape(found[0]), re.sub(r"[ \t\r\n]+", " ", text).strip())


def escaped(text: str) -> str:
    """Return a text whose forbidden characters are escaped; line breaks and tabs are kept.

    >>> escaped("a\\x1b[2J\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return _FORBIDDEN.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
