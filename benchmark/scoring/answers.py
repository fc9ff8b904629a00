"""Decides whether a text gives an answer, and whether one of two answers begins the other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from ..core.records import Answer
from ..core.text import UNSPACED, is_unspaced

_APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼʻ´`′", "'"))
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−﹣", "-"))
_OPTIONAL_MARKS = ".,;:!?'\"()[]{}«»“”„‹›…·・/"
"""Marks of an answer that a continuation may leave out. All other marks belong to the answer, as in "C++"."""
_KOREAN_ENDINGS = (
    "이 가 은 는 을 를 의 에 에서 에서는 에게 에는 에도 로 으로 와 과 도 만 까지 부터 보다 처럼 나 이나 랑 이랑 하고 "
    "란 이란 라는 이라는 라고 이라고 다 이다 입니다 이며 며 이고 고 였다 이었다 였습니다 이었습니다 예요 이에요 야 "
    "이야 임 인 지만 이지만 죠 이죠 였고 이었고 였으며 이었으며 라 이라 이므로"
)
_WORD_END = rf"(?:(?=[{UNSPACED}])|(?:{'|'.join(_KOREAN_ENDINGS.split())})?(?!\w))"
_COMBINING = (
    "\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e"
    "\u17b6-\u17d3\u3099\u309a"
)
"""Marks that change the letter before them, in the scripts of ``UNSPACED``."""


def normalise(text: str) -> str:
    """Return a text with case, character width, accent encoding and white space normalised.

    >>> normalise("  St.  Louis ")
    'st. louis'
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def begins_with(text: str, answers: Sequence[str], rival: str = "") -> bool:
    """Return whether a continuation begins with one of the answers as whole words.

    A quotation mark, a bracket or "the" may precede the answer. Sentence punctuation inside an answer is optional, such
    as the full stop of "St."; punctuation that the answer does not have is not skipped. Other marks belong to the
    answer: "C++" differs from "C", "-5" from "5", and "1.5" from "15". Suffixes after an apostrophe and Korean
    particles may follow. Han, Hiragana, Thai and other scripts without spaces do not show where a word ends, hence more
    characters of this script may follow.

    Args:
        text: the continuation.
        answers: the spellings of the answer.
        rival: an answer that must not be counted. It matters if it begins with one of ``answers``: "United States of
            America" does not give the answer "United States" if it is the rival.

    >>> begins_with(" Rome, the", ["Rome"]), begins_with("Romeo", ["Rome"]), begins_with("not Rome", ["Rome"])
    (True, False, False)
    >>> begins_with("St Louis", ["St. Louis"]), begins_with("Mexico. City", ["Mexico City"])
    (True, False)
    >>> begins_with("大阪です。", ["大阪"]), begins_with("C++ is", ["C"]), begins_with("-5", ["5"])
    (True, False, False)
    """
    continuation = _fold(text)
    matches = [match for answer in answers if (match := _match(continuation, answer)) is not None]
    if not matches:
        return False
    longest = max(matches, key=lambda match: match.end("answer"))
    return not _gives_longer(continuation, rival, longest)


def one_begins_other(target: str, rival: str, target_scores: Answer, rival_scores: Answer) -> bool:
    """Return whether one of two answers begins the other, which makes their probabilities incomparable.

    The text of a longer answer includes the shorter one, hence it is never more probable. Two answers are of this kind
    if the words of one begin with those of the other ("United States", "United States of America"), or if the tokens do
    ("Niger", "Nigeria" as "Niger" + "ia"). In the second case all scores of the shorter answer's tokens are equal.

    Singular and plural of a word ("dog", "dogs") are compared nevertheless, as in the one-prefix method of BLiMP
    (Warstadt et al. 2020).
    """
    short, long = sorted((" ".join(target.split()), " ".join(rival.split())), key=len)
    if not long.startswith(short):
        return False
    rest = long[len(short) :]
    if not rest[:1].isalnum() or is_unspaced(rest[0]):
        return True
    if len(short) > 2 and rest in ("s", "es"):
        return False
    nested, outer = sorted((target_scores, rival_scores), key=lambda scores: len(scores.ranks))
    n = len(nested.ranks)
    return (nested.token_logprobs, nested.ranks) == (outer.token_logprobs[:n], outer.ranks[:n])


def _fold(text: str) -> str:
    """Normalise a text, and unify apostrophes, dashes, thousands separators and the dotted capital I of Turkish."""
    folded = normalise(text.translate(_APOSTROPHES)).translate(_DASHES).replace("i\u0307", "i")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", folded)


def _match(continuation: str, answer: str) -> re.Match[str] | None:
    """Match the beginning of a folded continuation with an answer."""
    return _answer_pattern(answer).match(continuation) if answer.strip() else None


def _gives_longer(continuation: str, rival: str, match: re.Match[str]) -> bool:
    """Return whether the continuation gives a rival that is longer than the matched answer.

    A continuation that ends within the rival gives it, too: its number of tokens is limited.
    """
    longer = _match(continuation, rival)
    if longer is not None:
        return longer.end("answer") > match.end("answer")
    rest = continuation[match.start("answer") :]
    return match.end("answer") < len(continuation) and _fold(rival).removeprefix("the ").startswith(rest)


@cache
def _answer_pattern(answer: str) -> re.Pattern[str]:
    text = _fold(answer).removeprefix("the ")
    only_marks = not any(char.isalnum() for char in text)
    parts = []
    for i, char in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        between_digits = before.isdigit() and after.isdigit()
        sign = not before.strip() and not after.isspace()
        if char == " " or (char == "-" and not sign and not between_digits):
            parts.append("[ -]")
        elif char == "&":
            parts.append("(?:&|and)")
        else:
            belongs = only_marks or between_digits or (char == "." and sign)  # ".NET"
            optional = char in _OPTIONAL_MARKS and not belongs
            parts.append(re.escape(char) + "?" * optional)
    # A sign or a decimal point before a number belongs to the number.
    start = r"(?<![-+.])" if text[:1].isdigit() else ""
    return re.compile(rf"[\W_]*?(?:the )?{start}(?P<answer>{''.join(parts)}){_end(text)}")


def _end(answer: str) -> str:
    """Return the pattern of the text that may follow an answer."""
    last = answer[-1:]
    if last.isdigit():
        return rf"(?![.,:/]\d){_WORD_END}"
    if "ァ" <= last <= "ヿ":
        return "(?![ァ-ヺー-ヿ])"  # a change of script ends a word in Katakana
    if last and is_unspaced(last):
        return f"(?![{_COMBINING}])"
    if len(answer) == 1 and last.isalpha():
        return rf"(?![+#]|'\w\w|&\w){_WORD_END}"
    return rf"(?![+#]|&\w){_WORD_END}" if last.isalnum() else r"(?!\w)"
