"""Plug-in packages: built, installed and used through the command line in a separate process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WIDTH, train_tokenizer

TESTS = Path(__file__).parents[1]
EXAMPLE, BROKEN = TESTS / "plugin_example", TESTS / "plugin_broken"


@pytest.fixture(scope="module")
def knbench(tmp_path_factory):
    """Install both packages into a folder, and return a function that runs the command line with them."""
    target, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("sources")
    # Copies, because a build writes files to the source folder.
    copies = [str(shutil.copytree(package, work / package.name)) for package in (EXAMPLE, BROKEN)]
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(target), *copies], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(*arguments, status=0):
        command = [sys.executable, "-m", "knbench.benchmark", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work, check=False)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def starcoder(tmp_path_factory):
    """Return a tiny model of an architecture that is not in the built-in table."""
    import torch
    import transformers
    from knbench.benchmark.models.families import BUILT_IN

    assert "Starcoder2ForCausalLM" not in BUILT_IN
    tokenizer = train_tokenizer(bos=False)
    torch.manual_seed(0)
    config = transformers.Starcoder2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    folder = tmp_path_factory.mktemp("models") / "starcoder2"
    transformers.Starcoder2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_example_passes_all_checks_and_is_short(knbench):
    listed = {row["name"]: row["summary"] for row in json.loads(knbench("list", "editors", "--json"))}
    assert listed["scale-column"].startswith("The subject's most active neuron")
    verdict = json.loads(knbench("check-editor", "scale-column", "--json"))
    assert verdict["ok"] is True
    assert all(check["ok"] and check["message"] == "" for check in verdict["checks"])
    (module,) = (EXAMPLE / "knbench_example").glob("scale_*.py")
    assert len(module.read_text().splitlines()) < 40


@pytest.mark.slow
@pytest.mark.long
def test_the_method_with_a_state_and_its_guard_pass_all_checks(knbench):
    for name in ("scale-once", "scale-once+half"):
        verdict = json.loads(knbench("check-editor", name, "--json"))
        assert [check for check in verdict["checks"] if not check["ok"] or check["message"]] == []


def test_an_editor_that_does_not_restore_the_model_is_rejected(knbench):
    out = knbench("check-editor", "in-place", status=1)
    assert "in-place fails 2 of" in out
    verdict = json.loads(knbench("check-editor", "in-place", "--json", status=1))
    failed = {check["name"]: check["message"] for check in verdict["checks"] if not check["ok"]}
    assert set(failed) == {"leaves-the-model-alone", "restores-exactly"}
    assert "transformer.h.0.mlp.c_proj.weight" in failed["restores-exactly"]


def test_a_plug_in_can_add_a_method_a_task_and_a_model_family(knbench, starcoder, tmp_path):
    out = tmp_path / "out"
    arguments = ["--model", starcoder, "--editors", "scale-column,none", "--tasks", "capital,rivers", "--limit", "2"]
    results = json.loads(knbench("run", *arguments, "--output", out, "--json"))
    assert {(r["editor"]["name"], r["task"]["name"]) for r in results} == {
        (editor, task) for editor in ("scale-column", "none") for task in ("capital", "rivers")
    }
    assert all(r["records"]["failed"] == 0 and r["model"]["architecture"] == "Starcoder2ForCausalLM" for r in results)
    record = json.loads((out / "scale-column/rivers/records.jsonl").read_text().splitlines()[0])
    assert record["edit"]["parameters"] == ["model.layers.0.mlp.c_proj.weight"]
    assert record["edit"]["parameters_touched"] == 48 * WIDTH
