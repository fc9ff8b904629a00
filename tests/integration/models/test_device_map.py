"""Models that accelerate distributes across devices. In these tests every device is the CPU."""

from __future__ import annotations

import pytest
import torch
from accelerate import dispatch_model
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.hooks import resume_at
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.editors.ft import FineTuning
from knbench.editors.lora import Lora
from knbench.editors.memit import Memit
from knbench.editors.rome import Rome

from tests.conftest import called, make_lm
from tests.files import run_folders as run
from tests.workers import measured, towns

STEPS = {"steps": "2"}
SETTINGS = RunSettings(
    batch_size=8, new_tokens=2, limit=2,
    editor_args={"rome": STEPS, "ft": STEPS, "lora": STEPS, "memit": {**STEPS, "corpus_tokens": "256"}},
)  # fmt: skip


def distributed_lm(kind="llama"):
    """Return a model with the hooks that accelerate adds to the modules of a distributed model."""
    lm = make_lm(kind)
    device_map = {name: "cpu" for name, _ in lm.model.named_children()}
    model = dispatch_model(lm.model, device_map, main_device="cpu", force_hooks=True)
    return LanguageModel(model, lm.tokenizer, family_of(type(model).__name__), name=lm.name)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_model_with_a_device_map_is_the_same_model(model_folder, device_map):
    plain, mapped = load_model(str(model_folder)), load_model(str(model_folder), device_map=device_map)
    assert mapped.weight_hash() == plain.weight_hash()
    assert mapped.fingerprint() == plain.fingerprint()
    assert mapped.device == torch.device("cpu")


def test_edits_of_a_distributed_model_are_the_same_and_are_reverted(tmp_path):
    plain, mapped = make_lm("llama"), distributed_lm()
    before = mapped.weight_hash()
    assert before == plain.weight_hash()
    hooked = {name for name, module in mapped.model.named_modules() if "forward" in vars(module)}
    assert hooked  # otherwise the test has no subject
    editors = [Rome, FineTuning, Lora, Memit]
    for a, b in zip(
        run(plain, editors, [towns(8)], tmp_path / "plain", SETTINGS),
        run(mapped, editors, [towns(8)], tmp_path / "mapped", SETTINGS),
        strict=True,
    ):
        assert measured(a) == measured(b)
        assert not any(record["failure"] for record in measured(b))
    assert mapped.weight_hash() == before
    assert {name for name, module in mapped.model.named_modules() if "forward" in vars(module)} == hooked


def test_a_skipped_block_gets_its_own_forward_back():
    lm = distributed_lm()
    block, ids = lm.block(0), torch.tensor([[5, 6, 7]])
    forward, logits = vars(block).get("forward"), lm.model(input_ids=ids).logits
    with resume_at(lm, 2, torch.zeros(1, 3, lm.shape["width"])):
        assert not torch.equal(lm.model(input_ids=ids).logits, logits)
    assert vars(block).get("forward") is forward
    assert torch.equal(lm.model(input_ids=ids).logits, logits)


def test_weights_offloaded_to_disk_are_refused(model_folder):
    device_map = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    device_map |= {f"model.layers.{i}": "cpu" if i else "disk" for i in range(4)}
    with pytest.raises(
        KnbenchError, match=r"does not fit on the devices: 9 of its tensors, for example model\.layers\.0"
    ):
        load_model(str(model_folder), device_map=device_map)


def test_an_unknown_map_is_one_line(model_folder, capsys, tmp_path):
    arguments = ["--editors", "none", "--tasks", "capital", "--output", tmp_path / "out"]
    status, _, said = called(capsys, "run", "--model", model_folder, *arguments, "--device-map", "everywhere")
    assert status == 2
    assert said.strip().splitlines()[-1].startswith("knbench: cannot load model 'tiny': ")
    assert len(said.strip().splitlines()) == 1
