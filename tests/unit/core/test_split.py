from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import Case, EditRequest
from knbench.benchmark.core.split import SMALLEST, split_cases

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")


def cases(ids):
    return tuple(Case(str(i), REQUEST, ()) for i in ids)


def ids(found):
    return [case.id for case in found]


@given(st.lists(st.text(max_size=8), unique=True, max_size=80))
def test_the_sides_are_disjoint_complete_and_in_order(names):
    whole = cases(names)
    test, tune = (ids(split_cases("towns", whole, which)) for which in ("test", "tune"))
    assert not set(test) & set(tune)
    assert [name for name in names if name in {*test, *tune}] == names
    assert test == [name for name in names if name in set(test)]
    assert tune == [name for name in names if name in set(tune)]
    assert split_cases("towns", whole, "all") == whole


def test_about_a_fifth_is_for_tuning_and_another_task_has_another_fifth():
    whole = cases(range(5000))
    tune = set(ids(split_cases("towns", whole, "tune")))
    assert 900 < len(tune) < 1100
    other = set(ids(split_cases("rivers", whole, "tune")))
    assert 130 < len(tune & other) < 270  # a fifth of a fifth, as of two that know nothing of each other


def test_a_case_keeps_its_side_whatever_stands_beside_it():
    whole = cases(range(100))
    tune = set(ids(split_cases("towns", whole, "tune")))
    assert set(ids(split_cases("towns", whole[::-1], "tune"))) == tune
    assert set(ids(split_cases("towns", whole[:40], "tune"))) == tune & set(ids(whole[:40]))
    assert set(ids(split_cases("towns", cases(range(300)), "tune"))) & set(ids(whole)) == tune


def test_it_is_the_same_on_every_machine():
    code = """
from knbench.benchmark.core.split import split_cases
from knbench.benchmark.core.schema import Case, EditRequest
request = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
cases = [Case(str(i), request, ()) for i in range(20)]
print(*(case.id for case in split_cases("towns", cases, "tune")))
"""
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        assert subprocess.check_output([sys.executable, "-c", code], env=environment).split() == [b"17", b"18", b"19"]


def test_a_small_task_is_kept_whole_for_testing():
    few = cases(range(SMALLEST - 1))
    assert split_cases("towns", few, "test") == few
    assert split_cases("towns", few, "tune") == ()
    assert split_cases("towns", cases(range(SMALLEST)), "tune")


def test_there_are_three_sides():
    with pytest.raises(ValueError, match="one of test, tune, all, not 'train'"):
        split_cases("towns", cases(range(30)), "train")


@pytest.mark.parametrize("name", registry.tasks())
def test_every_built_in_task_can_be_tuned_on(name):
    whole = registry.task(name).cases
    assert 0.1 < len(split_cases(name, whole, "tune")) / len(whole) < 0.3
