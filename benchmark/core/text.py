"""Joins prompts and answers: the space between them, and the scripts that are written without spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar, Khmer
    "\u2e80-\u2fff\u3000-\u312f\u31a0-\u31ff"  # Han radicals, CJK punctuation, Hiragana, Katakana, Bopomofo
    "\u3200-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\ufe30-\ufe4f\uff01-\uff9f"  # CJK compatibility forms, full-width and half-width forms
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Kana supplements, Han supplements
)
"""Characters of scripts that are written without spaces between words, as ranges of a regular expression."""
Join = Literal["space", "none"]
WORD_JOINER = "\u2060"
"""At the end of a prompt: no space precedes the target. The character itself is not part of the text."""
_UNSPACED = re.compile(f"[{UNSPACED}]")
_ELIDED = re.compile(r"(?:^|[\s(«“\"])(?:[cdjlmnost]|\w*qu|(?:de|a|ne|su|da)ll|un|quest|quell)['’]$", re.IGNORECASE)


def is_unspaced(char: str) -> bool:
    """Return whether a character belongs to a script without spaces between words, such as Han, Kana, Thai or Khmer.

    Korean is written with spaces.

    >>> [is_unspaced(char) for char in "京すไ서é"]
    [True, True, True, False, False]
    """
    return _UNSPACED.match(char) is not None


def is_mark(char: str) -> bool:
    """Return whether a character is a part of the letter before it: a vowel sign, a tone mark, an accent.

    >>> [is_mark(char) for char in ("ा", "\u0301", "a", "")]
    [True, True, False, False]
    """
    return char != "" and unicodedata.category(char) in ("Mn", "Mc")


def separator(prompt: str, target: str) -> str:
    """Return the text between a prompt and its continuation: one space or nothing.

    Nothing separates them in these cases:

    - The prompt is empty or ends with white space, a zero-width space or a word joiner (U+2060), or the target begins
      with white space.
    - The prompt ends with an opening quotation mark or bracket, or with an elided article ("l'").
    - The prompt ends with a script without spaces. Punctuation such as ":" may follow if the target belongs to such a
      script, too.

    >>> separator("Oslo is in", "Norway"), separator("Answer:\\n", "Norway"), separator('The "', "Norway")
    (' ', '', '')
    """
    if not prompt or not target or prompt[-1].isspace() or target[0].isspace():
        return ""
    if (
        prompt[-1] in ("\u200b", WORD_JOINER)
        or is_unspaced(prompt[-1])
        or _ends_with_opening_mark(prompt)
        or _ELIDED.search(prompt)
    ):
        return ""
    if prompt[-1].isalpha() or not is_unspaced(target[0]):
        return " "
    letters = (char for char in reversed(prompt) if char.isalpha() or char.isspace() or is_unspaced(char))
    return "" if is_unspaced(next(letters, " ")) else " "


def join_answer(prompt: str, target: str) -> str:
    """Return a prompt with its continuation as one text. A word joiner at the end of the prompt is removed.

    >>> join_answer("The capital of Norway is", "Oslo"), join_answer("挪威的首都是", "奥斯陆")
    ('The capital of Norway is Oslo', '挪威的首都是奥斯陆')
    """
    return prompt.removesuffix(WORD_JOINER) + separator(prompt, target) + target


def joined_prompt(prompt: str, targets: Iterable[str], join: Join) -> str:
    """Return a prompt that is separated from its targets by one space or by nothing, whatever their script.

    A prompt that ends with white space is returned unchanged.

    >>> joined_prompt("答案:", ["奥斯陆"], "space"), joined_prompt("Oslo is in", ["Norway"], "space")
    ('答案: ', 'Oslo is in')
    >>> join_answer(joined_prompt("Answer: (", ["a"], "space"), "a"), join_answer(joined_prompt("un", [], "none"), "do")
    ('Answer: ( a', 'undo')
    """
    if not prompt or prompt[-1].isspace():
        return prompt
    prompt = prompt.removesuffix(WORD_JOINER)
    if join == "none":
        return prompt + WORD_JOINER
    return prompt if all(separator(prompt, target) for target in targets if target) else f"{prompt} "


def border(prompt: str, target: str) -> int:
    """Return the number of characters of the joined text that precede the target and its space.

    A last blank of the prompt belongs to the target, as the space that is added does. Other white space, such as a line
    break, a tab or a no-break space, belongs to the prompt.

    >>> border("Oslo is ", "in"), border("Oslo is", "in"), border("Oslo:\\n", "in")
    (7, 7, 6)
    """
    if prompt.endswith(WORD_JOINER):
        return len(prompt) - 1
    return len(prompt) - (prompt.endswith(" ") and not target[:1].isspace())


def _ends_with_opening_mark(prompt: str) -> bool:
    """Return whether the last character opens a quotation or a bracket.

    The same quotation mark opens in one language and closes in another (German „Haus“, Swedish ”hus”), hence the
    character before it decides.
    """
    last, rest = prompt[-1], prompt[:-1]
    category = unicodedata.category(last)
    if category == "Ps" or last in "¿¡":
        return True
    if category not in ("Pi", "Pf") and last not in "\"'`":
        return False
    if not rest or rest[-1].isspace() or _ends_with_opening_mark(rest):
        return True
    return is_unspaced(rest[-1]) and (category == "Pi" or (last == '"' and prompt.count(last) % 2 == 1))
