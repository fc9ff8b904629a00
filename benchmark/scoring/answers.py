"""Decides whether a text gives an answer, and whether one of two answers begins the other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

from ..core.records import Answer
from ..core.text import UNSPACED, is_mark, is_unspaced

_APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼʻ´`′", "'"))
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−﹣", "-"))
_ARABIC_SIGNS = str.maketrans("٫٬٪", ".,%")
_OPTIONAL_MARKS = ".,;:!?'\"()[]{}«»“”„‹›…·・/。、「」『』《》〈〉【】،؛؟।"
"""Marks of an answer that a continuation may leave out. All other marks belong to the answer, as in "C++"."""
_KOREAN_ENDINGS = (
    "이 가 은 는 을 를 의 에 에서 에서는 에게 에는 에도 로 으로 와 과 도 만 까지 부터 보다 처럼 나 이나 랑 이랑 하고 "
    "란 이란 라는 이라는 라고 이라고 다 이다 입니다 이며 며 이고 고 였다 이었다 였습니다 이었습니다 예요 이에요 야 "
    "이야 임 인 지만 이지만 죠 이죠 였고 이었고 였으며 이었으며 라 이라 이므로"
)
_WORD_END = rf"(?:(?=[{UNSPACED}])|(?:{'|'.join(_KOREAN_ENDINGS.split())})?(?!\w))"
_OTHER_NUMBER = r"(?![.,:/^]-?\d| \d+/\d| ?[%‰]| ?per ?cent(?:age)?\b| (?:hundred|thousand|dozen|(?:m|b|tr)illion)s?\b)"
"""Not a text that changes the number before it, such as the rest of a decimal, a fraction or a power, or "percent"."""
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew
    "\u0640\u064b-\u0652\u0656-\u065f\u0670"  # Arabic vowels and the stretching line
    "\ufe00-\ufe0f]"  # selectors of a glyph
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{2,3})*,\d{3}|(?: \d{3})+|(?:'\d{3})+)(?!\d)")
"""A number with separators of thousands, or of lakhs: "1,000", "1 000", "1'000", "1,00,000"."""


def normalise(text: str) -> str:
    """Return a text with case, character width, accent encoding and white space normalised.

    Characters without width, such as a soft hyphen or a mark of the writing direction, are removed. A power or a
    fraction remains distinct from the number before it.

    >>> normalise("  St.  Louis "), normalise("10²"), normalise("1½")
    ('st. louis', '10^2', '1 1/2')
    """
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = re.sub(r"(?<=\d)(?=[⁰¹²³⁴-⁻])", "^", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞↉])", " ", text)
    text = unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/")
    return re.sub(r"\s+", " ", text).strip().casefold()


def begins_with(text: str, answers: Sequence[str], rival: str = "") -> bool:
    """Return whether a continuation begins with one of the answers as whole words.

    A quotation mark, a bracket or "the" may precede the answer. Sentence punctuation inside an answer is optional, such
    as the full stop of "St."; punctuation that the answer does not have is not skipped. Other marks belong to the
    answer: "C++" differs from "C", "-5" from "5", and "1.5" from "15". A unit may follow a number, but not a percent
    sign or a word such as "million". Suffixes after an apostrophe and Korean particles may follow. Han, Hiragana, Thai
    and other scripts without spaces do not show where a word ends, hence more characters of this script may follow. A
    vowel sign or an accent after the answer belongs to its last letter. The vowel points of Arabic and Hebrew are
    optional.

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
    >>> begins_with("10 km", ["10"]), begins_with("10%", ["10"]), begins_with("1 000", ["1000"])
    (True, False, True)
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
    if not is_mark(rest[:1]) and (not rest[:1].isalnum() or is_unspaced(rest[0])):
        return True
    if len(short) > 2 and rest in ("s", "es"):
        return False
    nested, outer = sorted((target_scores, rival_scores), key=lambda scores: len(scores.ranks))
    n = len(nested.ranks)
    return (nested.token_logprobs, nested.ranks) == (outer.token_logprobs[:n], outer.ranks[:n])


@lru_cache(maxsize=1 << 14)
def _fold(text: str) -> str:
    """Normalise a text, and unify apostrophes, dashes, digits, thousands separators and the dotted capital I."""
    folded = normalise(text.translate(_APOSTROPHES)).translate(_DASHES).translate(_ARABIC_SIGNS).replace("i\u0307", "i")
    folded = re.sub(r"\d", lambda digit: str(int(digit[0])), _POINTS.sub("", folded))
    return _GROUPED.sub(lambda number: re.sub(r"\D", "", number[0]), folded)


def _match(continuation: str, answer: str) -> re.Match[str] | None:
    """Match the beginning of a folded continuation with an answer."""
    match = _answer_pattern(answer).match(continuation) if answer.strip() else None
    if match is None or is_mark(continuation[match.end("answer") :][:1]):
        return None
    return match


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
        elif char == "%":
            parts.append(" ?(?:%|per ?cent)")
        else:
            belongs = only_marks or between_digits or (char == "." and sign)  # ".NET"
            optional = char in _OPTIONAL_MARKS and not belongs
            parts.append(re.escape(char) + "?" * optional)
    # A sign or a decimal point before a number belongs to the number.
    start = r"(?<![-+.])" if text[:1].isdigit() else ""
    required = text if only_marks else text.rstrip(_OPTIONAL_MARKS + " ")
    return re.compile(rf"[\W_]*?(?:the )?{start}(?P<answer>{''.join(parts)}){_end(required)}")


def _end(answer: str) -> str:
    """Return the pattern of the text that may follow an answer, given without its optional marks at the end."""
    last = answer[-1:]
    if last.isdigit():
        return _OTHER_NUMBER + _WORD_END
    if "ァ" <= last <= "ヿ":
        return "(?![ァ-ヺー-ヿ])"  # a change of script ends a word in Katakana
    if last and is_unspaced(last):
        return ""
    if len(answer) == 1 and last.isalpha():
        return rf"(?![+#]|'\w\w|&\w){_WORD_END}"
    return rf"(?![+#]|&\w){_WORD_END}" if last.isalnum() else r"(?!\w)"
