"""One case, for people: what was asked, what the model said before and after, and whether that was wanted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..benchmark.scoring.criteria import CRITERIA, MEASURES


def case_anchor(case_id: str) -> str:
    """Return a case's place in its page, made of letters and digits whatever its id is made of."""
    return f"c{hashlib.sha256(case_id.encode()).hexdigest()[:12]}"


def case_view(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return one case for the drill-down."""
    request = record["request"]
    probes = [probe_view(probe) for probe in record["probes"]]
    return {
        "id": record["case_id"],
        "anchor": case_anchor(record["case_id"]),
        "edit": request["prompt"].replace("{}", request["subject"], 1),
        "new": request["target_new"],
        "true": request["target_true"],
        "failure": record["failure"],
        "seconds": record["timings"].get("edit_seconds"),
        "probes": probes,
        "marks": _marks(probes),
        "score": _score(probes),
    }


def _score(probes: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the mean over criteria of the share of probes that passed, by which cases are called best and worst."""
    shares = [passed / asked for _, passed, asked in _marks(probes)]
    return sum(shares) / len(shares) if shares else None


def _marks(probes: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return (criterion, passed, asked) per criterion."""
    counts: dict[str, list[int]] = {}
    for probe in probes:
        if probe["passed"] is not None:
            tally = counts.setdefault(probe["criterion"], [0, 0])
            tally[0] += probe["passed"]
            tally[1] += 1
    return [(criterion, passed, asked) for criterion, (passed, asked) in counts.items()]


def probe_view(probe: Mapping[str, Any]) -> dict[str, Any]:
    """Return one probe with both answers, and whether it passes by ``success``."""
    after = probe["after"]
    value = None if after is None else MEASURES["success"].of(probe, probe["before"], after)
    passed = None if value is None else bool(value)
    wanted = {"new": "shall say", "unchanged": "shall still say", "gone": "shall no longer say"}[probe["expect"]]
    return {
        "criterion": CRITERIA[probe["criterion"]].title if probe["criterion"] in CRITERIA else probe["criterion"],
        "kind": probe["kind"],
        "prompt": probe["prompt"],
        "target": probe["target"],
        "rival": probe["rival"],
        "wanted": wanted,
        "passed": passed,
        "before": _said(probe["before"]),
        "after": _said(after),
    }


def _said(observation: Mapping[str, Any] | None) -> dict[str, str] | None:
    if observation is None:
        return None
    if "text" in observation:
        return {"text": observation["text"].strip() or "(nothing)", "target": "", "rival": ""}
    return {
        "text": observation["generated"].strip() or "(nothing)" if "generated" in observation else "",
        "target": _probability(observation["target"]["logprob"]),
        "rival": _probability(observation["rival"]["logprob"]),
    }


def _probability(logprob: float) -> str:
    """Return a probability in as few digits as tell something; a sentence's as its logarithm.

    >>> _probability(-0.01), _probability(-5.0), _probability(-50.0)
    ('0.990', '0.0067', 'e^-50.0')
    """
    if logprob < -25:
        return f"e^{logprob:.1f}"
    p = math.exp(logprob)
    return f"{p:.3f}" if p >= 0.01 else f"{p:.1e}" if p < 0.001 else f"{p:.4f}"
