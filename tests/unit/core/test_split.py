from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import Case, EditRequest
from knbench.benchmark.core.split import MIN_SPLIT_CASES, split_cases

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


def test_about_a_fifth_is_for_tuning_independently_of_other_tasks():
    whole = cases(range(5000))
    tune = set(ids(split_cases("towns", whole, "tune")))
    assert 900 < len(tune) < 1100
    other = set(ids(split_cases("rivers", whole, "tune")))
    assert 130 < len(tune & other) < 270  # a fifth of a fifth, as for independent draws


def test_a_case_keeps_its_side_regardless_of_other_cases():
    whole = cases(range(100))
    tune = set(ids(split_cases("towns", whole, "tune")))
    assert set(ids(split_cases("towns", whole[::-1], "tune"))) == tune
    assert set(ids(split_cases("towns", whole[:40], "tune"))) == tune & set(ids(whole[:40]))
    assert set(ids(split_cases("towns", cases(range(300)), "tune"))) & set(ids(whole)) == tune


def test_the_split_does_not_depend_on_the_hash_seed():
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


def test_a_small_task_has_only_test_cases():
    few = cases(range(MIN_SPLIT_CASES - 1))
    assert split_cases("towns", few, "test") == few
    assert split_cases("towns", few, "tune") == ()
    assert split_cases("towns", cases(range(MIN_SPLIT_CASES)), "tune")


def test_an_unknown_side_is_an_error():
    with pytest.raises(ValueError, match="one of test, tune, all, not 'train'"):
        split_cases("towns", cases(range(30)), "train")


@pytest.mark.parametrize("name", registry.tasks())
def test_every_built_in_task_can_be_tuned_on(name):
    whole = registry.task(name).cases
    assert 0.1 < len(split_cases(name, whole, "tune")) / len(whole) < 0.3
