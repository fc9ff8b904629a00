"""Checks of a board by its controls: methods of which one knows what they must score.

A board on which a control scores more than it must does not measure editing. Its order says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

LIMITS: Mapping[str, float] = {"none": 0.0, "random": 0.01, "destroyed": 0.02, "parrot": 0.05, "logit-bias": 0.25}
"""Largest edit score of each control. It changes nothing, changes it without aim, ruins the model, says the new target
after everything, or shifts one word."""

LOCATE_THEN_EDIT = ("rome", "r-rome", "memit", "emmet", "alphaedit")
"""Methods that write a value at a key, which must do better than shifting a word."""


def control_violations(scores: Mapping[str, float], kinds: Mapping[str, str | None]) -> list[str]:
    """Return one sentence per control that scores more than it must.

    Args:
        scores: edit scores of the ranked methods, between 0 and 1.
        kinds: what each method changes, or ``control``; None where it is unknown.
    """
    found = [
        f"the control '{name}' scores {100 * scores[name]:.1f}; at most {100 * limit:g} is plausible"
        for name, limit in LIMITS.items()
        if scores.get(name, 0.0) > limit
    ]
    if "destroyed" in scores:
        real = [m for m in scores if kinds.get(m) != "control" and m not in LIMITS]
        found += [
            f"the control 'destroyed' scores {100 * scores['destroyed']:.1f}, above '{m}' with {100 * scores[m]:.1f}"
            for m in real
            if scores["destroyed"] > scores[m] >= LIMITS["destroyed"]
        ]
    if "logit-bias" in scores:
        found += [
            f"the control 'logit-bias' scores {100 * scores['logit-bias']:.1f}, not less than '{m}' with "
            f"{100 * scores[m]:.1f}"
            for m in LOCATE_THEN_EDIT
            if m in scores and scores["logit-bias"] >= scores[m]
        ]
    return found
