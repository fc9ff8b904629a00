"""Texts that give an answer, in several scripts, and answers of which one begins the other."""

from __future__ import annotations

import pytest
from knbench.benchmark.core.records import Answer
from knbench.benchmark.scoring.answers import begins_with, normalise, one_begins_other


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        (" Rome, Italy", ["Rome"], True),
        ("Romeo and", ["Rome"], False),
        (" ROME", ["Rome"], True),
        (" St. Louis is", ["St. Louis"], True),
        (" Washington DC,", ["Washington, D.C.", "Washington DC"], True),
        (" the Rome", ["Rome"], True),
        (' "Rome"', ["Rome"], True),
        (" in Rome", ["Rome"], False),
        (" St Louis is", ["St. Louis"], True),
        (" St. Paul", ["St. Louis"], False),
        (" the Hague", ["The Hague"], True),
        (" Port au Prince", ["Port-au-Prince"], True),
        (" Washington, D.C.", ["Washington DC"], False),
        (" Mexico. City", ["Mexico City"], False),
        ("大阪です。", ["大阪"], True),
        ("「大阪」です", ["大阪"], True),
        ("奥斯陆是挪威的首都", ["奥斯陆"], True),
        ("オスロです", ["オスロ"], True),
        ("ロマンス", ["ロマ"], False),
        ("กรุงเทพมหานคร", ["กรุงเทพ"], True),
        ("กรุงเทพ์", ["กรุงเทพ"], False),
        ("서울입니다", ["서울"], True),
        (" 서울은 한국의", ["서울"], True),
        (" 인도네시아", ["인도"], False),
        (" 독일어", ["독일"], False),
        ("Oslo입니다", ["Oslo"], True),
        ("Osloです", ["Oslo"], True),
        (" Ankara'dır", ["Ankara"], True),
        (" Ankara’dır", ["Ankara"], True),
        (" İstanbul'da", ["Istanbul"], True),
        (" C is", ["C++"], False),
        (" C++ is", ["C"], False),
        (" C++ is", ["C++"], True),
        (" C# is", ["C"], False),
        (" C's", ["C"], True),
        (" the net", [".NET"], False),
        (" .NET", [".NET"], True),
        (" AT&T", ["AT"], False),
        (" R&B", ["R"], False),
        (" Johnson and Johnson", ["Johnson & Johnson"], True),
        (" -5", ["5"], False),
        (" −5", ["-5"], True),
        (" 5", ["-5"], False),
        (" - 5", ["5"], True),
        (" 15", ["1.5"], False),
        (" 1.5 m", ["1"], False),
        (" 12", ["1/2"], False),
        (" 1,000", ["1"], False),
        (" 1,000", ["1000"], True),
        (" 1000", ["1,000"], True),
        (" 5. The", ["5"], True),
        (" 50", ["50%"], False),
        (" 5年", ["5"], True),
        (" . so", ["+"], False),
        (" + is", ["+"], True),
        (" O'Neil", ["O’Neil"], True),
        (" O’Neil", ["O'Neil"], True),
        (" O'Neil", ["O"], False),
        (" **Rome**", ["Rome"], True),
        ("ភ្នំពេញ", ["ភ្នំពេញ"], True),
        (" 평양", ["평"], False),
        (" 로마에서", ["로마"], True),
        (" 파리와", ["파리"], True),
        (" F# is", ["F"], False),
        (" 3.14159", ["3.14"], False),
        (" 5", ["$5"], False),
        (" H₂O", ["H2O"], True),
        (" 1990s", ["1990"], False),
        ("", ["Rome"], False),
        ("Rome", [""], False),
        # A percent sign, a power, a fraction or a word of magnitude makes another number; a unit does not.
        (" 10%", ["10"], False),
        (" 10 %", ["10"], False),
        (" 10 percent of", ["10"], False),
        (" 10 percentage points", ["10"], False),
        (" 10 per century", ["10"], True),
        (" 10 million", ["10"], False),
        (" 10 millionaires", ["10"], True),
        (" 10 km", ["10"], True),
        (" 10€", ["10"], True),
        (" 10 per cent", ["10%"], True),
        (" 10 percent", ["10%"], True),
        (" 10 %", ["10%"], True),
        (" 10^6", ["10"], False),
        (" 10⁶", ["10"], False),
        (" 10⁻⁶", ["10"], False),
        (" 10²", ["102"], False),
        (" 10²", ["10^2"], True),
        (" m²", ["m2"], True),
        (" 1½", ["11"], False),
        (" 1½", ["1"], False),
        (" 1½", ["1 1/2"], True),
        (" ½", ["1/2"], True),
        (" 5.5", ["5."], False),
        (" 5. It", ["5."], True),
        # Separators of thousands, and digits of other scripts.
        (" 1 000 000", ["1"], False),
        (" 1 000", ["1000"], True),
        (" 1\u202f000", ["1000"], True),
        (" 1’000", ["1000"], True),
        (" 1,00,000", ["100000"], True),
        (" 1990, 1991", ["1990"], True),
        (" 1990 200 people", ["1990"], True),
        (" ١٠", ["10"], True),
        (" 10", ["١٠"], True),
        (" ١٠٪", ["10%"], True),
        # A vowel sign or an accent is a part of the letter before it.
        ("रामायण", ["राम"], False),
        (" राम ने", ["राम"], True),
        ("दिल्ली में", ["दिल्ली"], True),
        ("தமிழ்", ["தமிழ"], False),
        ("কলকাতা", ["কলকাত"], False),
        (" O\u0323\u0300yo", ["O\u0323"], False),
        (" Sa\u0303o Paulo", ["S\u00e3o Paulo"], True),
        # Vowel points, the stretching line and characters without width are optional.
        ("القاهِرةُ،", ["القاهرة"], True),
        ("القاهرة", ["القاهِرة"], True),
        ("القـاهرة", ["القاهرة"], True),
        ("שָׁלוֹם", ["שלום"], True),
        (" Ro\u00adme", ["Rome"], True),
        (" New\u200b York", ["New York"], True),
        (" \u200eRome\u200f.", ["Rome"], True),
        ("大阪です", ["大阪。"], True),
    ],
)
def test_begins_with(text, answers, found):
    assert begins_with(text, answers) is found


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("10²", "102", False),
        ("2⁵ is", "25 is", False),
        ("1½", "11/2", False),
        ("Ro\u00adme", "Rome", True),
        ("\u200eRome", "Rome", True),
        ("ｅ\u0301", "É", True),
    ],
)
def test_normalised_texts_are_equal_only_if_they_say_the_same(first, second, equal):
    assert (normalise(first) == normalise(second)) is equal


def answer(*logprobs):
    return Answer(
        logprob=sum(logprobs), token_logprobs=logprobs, ranks=(0,) * len(logprobs), argmax=(0,) * len(logprobs)
    )


@pytest.mark.parametrize("longer", ["रामायण", "กรุงเทพ์"])
def test_a_vowel_sign_continues_the_word_so_that_the_tokens_decide(longer):
    shorter = longer[:3] if longer[0] == "र" else longer[:-1]
    assert one_begins_other(shorter, longer, answer(-1.0), answer(-1.0, -2.0))
    assert not one_begins_other(shorter, longer, answer(-1.0), answer(-0.5, -0.25))
