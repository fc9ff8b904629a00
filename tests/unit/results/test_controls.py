"""Checks of a board by its controls."""

from __future__ import annotations

import pytest
from knbench.benchmark.results.controls import LIMITS, control_violations

BOARD = {
    "memit": 0.55, "rome": 0.5, "kn": 0.004, "none": 0.0, "random": 0.001, "destroyed": 0.003, "parrot": 0.01,
    "logit-bias": 0.2,
}  # fmt: skip
KINDS = {name: "control" if name in LIMITS else "weights" for name in BOARD}


def test_plausible_controls_give_no_sentence():
    assert control_violations(BOARD, KINDS) == []
    assert control_violations({"rome": 0.1}, {"rome": None}) == []


@pytest.mark.parametrize(
    ("name", "value"), [("none", 1e-9), ("random", 0.011), ("destroyed", 0.021), ("parrot", 0.06), ("logit-bias", 0.26)]
)
def test_each_control_has_a_limit(name, value):
    (sentence,) = control_violations({**BOARD, name: value}, KINDS)
    assert f"control '{name}'" in sentence


def test_destroyed_model_must_not_beat_a_method_that_edits():
    low = {**BOARD, "destroyed": 0.019, "memit": 0.02, "kn": 0.018}
    assert control_violations(low, KINDS) == ["the control 'logit-bias' scores 20.0, not less than 'memit' with 2.0"]
    (first, second) = control_violations({**BOARD, "destroyed": 0.3, "kn": 0.1}, KINDS)
    assert "at most 2 is plausible" in first
    assert "above 'kn' with 10.0" in second


def test_shift_of_a_word_must_not_beat_methods_that_write_a_value_at_a_key():
    found = control_violations({**BOARD, "rome": 0.15}, KINDS)
    assert found == ["the control 'logit-bias' scores 20.0, not less than 'rome' with 15.0"]
    assert control_violations({**BOARD, "kn": 0.1}, KINDS) == []
