"""Model folders that try to execute code, to read other files or to allocate any amount of memory."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.models.claims import LIMITS, check_claims, no_pickled_files
from knbench.benchmark.models.loading import load_model
from safetensors.torch import load_file, save_file

from tests.conftest import make_lm

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    lm = make_lm("llama")
    lm.model.save_pretrained(folder, max_shard_size="20KB")
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """Return a copy of a model whose weights are in several files."""
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def no_load(monkeypatch):
    """Record the calls of ``torch.load``."""
    calls = []
    monkeypatch.setattr(torch, "load", lambda *a, **_: calls.append(a) or {})
    return calls


class Program:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refusal(folder, **options) -> str:
    with pytest.raises(KnbenchError) as caught:
        load_model(str(folder), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def redirect(folder, name):
    """Let the index name another file for all tensors of its first shard."""
    index = json.loads((folder / INDEX).read_text())
    first = next(iter(index["weight_map"].values()))
    index["weight_map"] = {t: name if f == first else f for t, f in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))
    return first


def polyglot(safetensors: Path, target: Path, program: Program) -> None:
    """Write a file that is both a safetensors file and the archive of a pickle."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(program))
        file.writestr("archive/version", "3\n")
    target.write_bytes(safetensors.read_bytes() + archive.getvalue())


def test_the_folder_loads_as_it_is(folder):
    assert len(load_model(str(folder)).blocks) == 4


@pytest.mark.parametrize("name", ["w.bin", "pytorch_model.bin", "w.safetensors.bin", "w.pt", "w", "w.SAFETENSORS"])
def test_attack_21_an_index_that_names_a_pickled_file_is_refused(folder, tmp_path, no_load, name):
    first = redirect(folder, name)
    polyglot(folder / first, folder / name, Program(tmp_path / "executed"))
    assert f"names {name}; an index may name only *.safetensors files of its own folder" in refusal(folder)
    assert no_load == []
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["../w.safetensors", "/tmp/w.safetensors", "a/w.safetensors", "..\\w.safetensors", 3])
def test_attack_21_an_index_that_leads_out_of_the_folder_is_refused(folder, name):
    first = redirect(folder, name)
    shutil.copy(folder / first, folder.parent / "w.safetensors")
    assert "an index may name only *.safetensors files of its own folder" in refusal(folder)


def test_attack_21_an_index_in_a_nest_is_refused(folder):
    (folder / INDEX).write_text("[" * 100_000)
    assert "is not an index of safetensors files" in refusal(folder)


def test_attack_21_torch_load_is_never_reached(folder, tmp_path):
    pickled = tmp_path / "w.bin"
    pickled.write_bytes(pickle.dumps(Program(tmp_path / "executed")))
    original = torch.load
    with pytest.raises(KnbenchError, match=r"names the pickled file 'w.bin'"), no_pickled_files():
        torch.load(pickled, weights_only=False)
    assert torch.load is original
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_attack_21_an_adapter_beside_the_weights_is_refused(folder, tmp_path, no_load, kind):
    path = folder
    if kind == "gguf":
        path = folder / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        path.write_bytes(path.read_bytes().ljust(64, b"\0"))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/other"}')
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Program(tmp_path / "executed")))
    assert "is an adapter (adapter_config.json); merge it into its base model" in refusal(path)
    assert no_load == []


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "states num_hidden_layers 1000000000; it must be between 1 and 2000"),
        ("num_hidden_layers", 0, "states num_hidden_layers 0"),
        ("vocab_size", 10**12, "states vocab_size 1000000000000"),
        ("vocab_size", 10**7, "implies at least 3.2e+08 weights"),
        ("hidden_size", 10**6, "states hidden_size 1000000"),
        ("hidden_size", 4096, "implies at least"),
        ("intermediate_size", 10**9, "states intermediate_size 1000000000"),
        ("max_position_embeddings", 10**10, "states max_position_embeddings 10000000000"),
    ],
)
def test_attack_21_a_configuration_that_claims_any_size_is_refused_before_allocation(
    folder, monkeypatch, setting, value, message
):
    import transformers

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, setting: value}))
    built = []
    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", lambda *a, **_: built.append(a))
    said = refusal(folder)
    assert message in said, said
    assert built == []


def test_the_limits_allow_the_largest_known_models():
    """Kimi K2, Llama 3.1 405B and Gemma 3, with the sizes of their files."""

    class Config:
        def __init__(self, **values):
            self.__dict__.update(values)

        def get_text_config(self):
            return self

    for layers, width, vocabulary, size in (
        (61, 7168, 163840, 1_000 << 30),
        (126, 16384, 128256, 760 << 30),
        (34, 2560, 262208, 2 << 30),
    ):
        check_claims("m", Config(num_hidden_layers=layers, hidden_size=width, vocab_size=vocabulary), size)
    assert min(LIMITS.values()) > 126


def test_a_single_file_is_read_as_before(folder, tmp_path):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (folder / INDEX).unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert len(load_model(str(folder)).blocks) == 4
