"""The border of prompts and answers in several scripts."""

from __future__ import annotations

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.text import WORD_JOINER, border, join_answer, joined_prompt, separator


@pytest.mark.parametrize(
    ("prompt", "target", "space"),
    [
        ("The capital of Norway is", "Oslo", True),
        ("The capital of Norway is ", "Oslo", False),
        ("Answer:\n", "Oslo", False),
        ("Answer:\t", "Oslo", False),
        ("La capitale :\u00a0", "Oslo", False),
        ("Answer:\u3000", "Oslo", False),
        ("", "Oslo", False),
        ("is", " Oslo", False),
        ('The word "', "Oslo", False),
        ('The word "Oslo"', "names", True),
        ("Das Wort „Oslo“", "ist", True),
        ("Das Wort „", "Oslo", False),
        ("Ordet ”", "Oslo", False),
        ("the students'", "books", True),
        ("the students’", "books", True),
        ("He sings 'n'", "dances", True),
        ("the city (", "Oslo", False),
        ("the city (Oslo)", "is", True),
        ("La capitale de l'", "Italie", False),
        ("¿", "Dónde", False),
        ("挪威的首都是", "奥斯陆", False),
        ("挪威的首都是", "Oslo", False),
        ("问:挪威的首都?答:", "奥斯陆", False),
        ("他说“", "奥斯陆", False),
        ('他说"', "奥斯陆", False),
        ('The word "日本"', "means", True),
        ("The capital of Japan is", "東京", True),
        ("順位は第1", "位", False),
        ("问题:挪威的首都在哪里?\n答案:", "奥斯陆", False),
        ("រាជធានី\u200b", "Oslo", False),
        ("Oslo\u2009", "is", False),
        ("مرحبا «", "أوسلو", False),
        ("ノルウェーの首都は", "オスロ", False),
        ("เมืองหลวงของนอร์เวย์คือ", "ออสโล", False),
        ("រាជធានីនៃន័រវែសគឺ", "អូស្លូ", False),
        ("노르웨이의 수도는", "오슬로", True),
        ("Столица Норвегии —", "Осло", True),
        ("عاصمة النرويج هي", "أوسلو", True),
    ],
)
def test_the_space_follows_the_script_and_the_marks(prompt, target, space):
    assert separator(prompt, target) == " " * space
    assert join_answer(prompt, target) == prompt + " " * space + target


@pytest.mark.parametrize(
    ("prompt", "length"),
    [("is", 2), ("is ", 2), ("is  ", 3), ("is\n", 3), ("is\u00a0", 3), ("is\n ", 3), ("", 0), ("挪威", 2)],
)
def test_only_the_last_blank_belongs_to_the_target(prompt, length):
    assert border(prompt, "Oslo") == length


def test_built_in_facts_are_joined_by_a_space():
    """Published numbers rest on this rule."""
    for task in registry.tasks().values():
        for case in task.cases:
            for probe in case.probes:
                if probe.kind == "completion":
                    assert separator(probe.prompt, probe.target) == separator(probe.prompt, probe.rival) == " "
                    assert border(probe.prompt, probe.target) == len(probe.prompt)


@pytest.mark.parametrize(
    ("join", "prompt", "targets", "text"),
    [
        ("none", "un", ("do", "tie"), "undo"),
        ("none", "Answer:", ("A", "B"), "Answer:A"),
        ("none", "Answer:\n", ("A", "B"), "Answer:\nA"),
        ("none", "首都是", ("奥斯陆", ""), "首都是奥斯陆"),
        ("space", "首都是", ("奥斯陆", "柏林"), "首都是 奥斯陆"),
        ("space", "The capital is", ("奥斯陆", "Oslo"), "The capital is 奥斯陆"),
        ("space", "1:", ("一", "Oslo"), "1: 一"),
        ("space", "l'", ("Italie",), "l' Italie"),
        ("space", "Answer:\n", ("A", "B"), "Answer:\nA"),
    ],
)
def test_a_task_may_decide_the_space(join, prompt, targets, text):
    joined = joined_prompt(prompt, targets, join)
    assert join_answer(joined, targets[0]) == text
    assert joined_prompt(joined, targets, join) == joined
    # The border precedes the target and its space.
    before = text[: border(joined, targets[0])]
    assert before == text.removesuffix(targets[0]).removesuffix(" ")


def test_a_word_joiner_is_no_part_of_a_joined_text():
    assert join_answer(f"un{WORD_JOINER}", "") == "un"
    assert join_answer(f"un{WORD_JOINER}", "do") == "undo"
