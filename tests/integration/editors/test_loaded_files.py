"""Files of statistics are read once, as far as memory allows, and not at every edit."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.editors.alphaedit import AlphaEdit
from knbench.editors.encore import Encore
from knbench.editors.memit import Memit
from knbench.editors.shared import loaded_files
from knbench.editors.shared.loaded_files import LoadedFiles
from safetensors.torch import load_file, save_file

from tests.conftest import make_lm

CPU = torch.device("cpu")


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read."""
    names = []

    def counted(path):
        names.append(path.name)
        return load_file(path)

    monkeypatch.setattr(loaded_files, "load_file", counted)
    return names


def test_the_files_used_last_are_kept_up_to_the_limit(reads, tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for number, path in enumerate(paths):
        save_file({"x": torch.full((100,), float(number))}, path)
    files = LoadedFiles(limit=800)
    a, b, c = paths
    for path in (a, b, a, c, a, b):
        assert torch.equal(files.load(path, CPU)["x"], load_file(path)["x"])
    assert reads == ["a.safetensors", "b.safetensors", "c.safetensors", "b.safetensors"]
    small = LoadedFiles(limit=399)
    small.load(a, CPU), small.load(a, CPU)
    assert reads[4:] == ["a.safetensors"] * 2


@pytest.mark.parametrize("cls", [Memit, AlphaEdit, Encore])
def test_each_edit_after_the_first_reads_no_file(cls, reads):
    lm = make_lm("llama")
    editor, _ = build_editor(cls, lm, {"layers": "0|1", "corpus_tokens": "256", "corpus_length": "16", "steps": "2"})
    editor.prepare(lm, Reporter())
    request = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
    first = editor.edit(lm, [request])
    before = len(reads)
    assert before == len(set(reads)) > 0
    second = editor.edit(lm, [request])
    assert len(reads) == before
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
