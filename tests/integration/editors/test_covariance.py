"""Second moments: values, cache and errors."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.files import cache_folder
from knbench.benchmark.core.progress import Reporter
from knbench.editors.shared import covariance
from knbench.editors.shared.covariance import Corpus, SecondMoments

from tests.conftest import SENTENCES, make_lm

SMALL = Corpus(tokens=256, length=16)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(SENTENCES * 4), encoding="utf-8")
    return path


def slow_moment(lm, rows, layer):
    """Return E[k k^T] as an explicit sum over tokens, in float64."""
    captured = []
    handle = lm.mlp_out(layer).register_forward_pre_hook(lambda _, args: captured.append(args[0][0]))
    for row in rows:
        lm.model(input_ids=torch.tensor([row]))
    handle.remove()
    keys = torch.cat(captured).double()
    return sum(torch.outer(k, k) for k in keys) / len(keys)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("source", ["self", "file"])
def test_the_moment_is_the_mean_outer_product_of_the_keys(kind, source, text):
    lm = make_lm(kind)
    before = lm.weight_hash()
    moments = SecondMoments(Corpus("self" if source == "self" else str(text), tokens=256, length=16))
    found = moments.of(lm, 2)
    if source == "self":
        (path,) = cache_folder().rglob("text.json")
        rows = json.loads(path.read_text())
    else:
        ids = lm.tokenizer(text.read_text()).input_ids
        rows = [ids[i * 16 : (i + 1) * 16] for i in range(16)]
    assert [len(row) for row in rows] == [16] * 16
    torch.testing.assert_close(found.double(), slow_moment(lm, rows, 2), rtol=1e-4, atol=1e-6)
    assert lm.weight_hash() == before


def test_rows_begin_with_bos_if_the_model_uses_one(text):
    lm = make_lm("llama", bos=True)
    rows = covariance._read(lm, Corpus(str(text), length=16), 5)
    assert rows.shape == (5, 16)
    assert set(rows[:, 0].tolist()) == {lm.bos_id}
    assert lm.bos_id not in rows[:, 1:]


def test_a_data_set_gives_the_same_text_as_a_file(text, tmp_path, lm):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"text": text.read_text()}) + "\n")
    by_file, by_datasets = (
        SecondMoments(Corpus(s, tokens=256, length=16)).of(lm, 1) for s in (str(text), f"datasets:{folder}")
    )
    assert torch.equal(by_file, by_datasets)


def test_the_moment_is_computed_once_and_cached(monkeypatch, lm):
    first = SecondMoments(SMALL)
    wanted = first.of(lm, 1)
    monkeypatch.setattr(covariance, "_keys", lambda *_: pytest.fail("computed again"))
    assert torch.equal(SecondMoments(SMALL).of(lm, 1), wanted)
    assert torch.equal(SecondMoments(SMALL).of(make_lm("llama"), 1), wanted)  # the same weights
    assert first.prepare(lm, [1], Reporter())["tokens"] == 256


@pytest.mark.parametrize(
    "other",
    [
        lambda: (make_lm("llama", seed=1), SMALL),
        lambda: (make_lm("llama"), Corpus(tokens=512, length=16)),
        lambda: (make_lm("llama"), Corpus(tokens=256, length=32)),
        lambda: (make_lm("llama"), Corpus(tokens=256, length=16, seed=1)),
    ],
)
def test_the_cache_distinguishes_models_and_corpora(lm, other):
    """A cache keyed by the model's name would mix the statistics of different models."""
    one = SecondMoments(SMALL).of(lm, 1)
    model, corpus = other()
    assert not torch.equal(SecondMoments(corpus).of(model, 1), one)


def test_the_cache_distinguishes_contents_of_a_file(lm, text):
    corpus = Corpus(str(text), tokens=256, length=16)
    one = SecondMoments(corpus).of(lm, 1)
    text.write_text(text.read_text()[::-1])
    assert not torch.equal(SecondMoments(corpus).of(lm, 1), one)


def test_an_interrupted_computation_leaves_no_file_and_no_lock(monkeypatch, lm):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(covariance, "save_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            SecondMoments(SMALL).of(lm, 1)
    assert not list(cache_folder().rglob("*.safetensors"))
    assert SecondMoments(SMALL).of(lm, 1).shape == (48, 48)


@pytest.mark.parametrize("method", ["_factor", "preserved"])
def test_concurrent_threads_compute_what_follows_from_the_moment_once(monkeypatch, lm, method):
    saved, save = [], covariance._save
    monkeypatch.setattr(covariance, "_save", lambda path, tensors: saved.append(path.name) or save(path, tensors))
    arguments = (lm, 1) if method == "_factor" else (lm, 1, None)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(getattr(SecondMoments(SMALL), method)(*arguments)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The moment and its factor, or the moment, its spectrum and the basis.
    assert len(saved) == len(set(saved)) == (2 if method == "_factor" else 3)
    assert len(found) == 3
    assert all(torch.equal(found[0], other) for other in found)


def test_concurrent_threads_compute_the_moment_once(monkeypatch, lm):
    calls = []
    compute = covariance._sampled
    monkeypatch.setattr(covariance, "_sampled", lambda *args: calls.append(1) or compute(*args))
    found = []
    threads = [threading.Thread(target=lambda: found.append(SecondMoments(SMALL).of(lm, 1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere.txt", "No such file"), ("datasets:./nowhere", "cannot be read"), ("short", "has 3 tokens, 256 are")],
)
def test_an_unusable_corpus_is_reported(lm, tmp_path, source, message):
    if source == "short":
        path = tmp_path / "short.txt"
        path.write_text("this")
        source = str(path)
        message = f"has {len(lm.tokenizer('this').input_ids)} tokens, 256 are"
    with pytest.raises(KnbenchError, match=message):
        SecondMoments(Corpus(source, tokens=256, length=16)).of(lm, 1)


def test_a_singular_moment_is_reported(lm):
    moments = SecondMoments(Corpus(tokens=16, length=16))
    with pytest.raises(ValueError, match="singular; set corpus_tokens higher"):
        moments.solve(lm, 1, torch.ones(48, 1))


def test_solve_applies_the_inverse(lm):
    moments = SecondMoments(Corpus(tokens=1024, length=32))
    keys = torch.randn(48, 3)
    back = moments.of(lm, 1).double() @ moments.solve(lm, 1, keys)
    torch.testing.assert_close(back, keys.double(), rtol=1e-6, atol=1e-6)
