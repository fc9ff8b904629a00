"""Two models with equal weights and another tokenizer or configuration are different models everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.results.boards import Questions
from knbench.benchmark.results.comparison import group_by_task
from knbench.benchmark.results.documents import comparable, different_conditions, optional_conditions
from knbench.benchmark.results.runs import Run
from knbench.benchmark.results.trust import Trust
from knbench.benchmark.scoring.edit_score import case_values
from knbench.editors.shared.covariance import Corpus, SecondMoments
from knbench.leaderboard.entries import Entry, section_key, sections_of

from tests.conftest import called, make_lm, train_tokenizer
from tests.factories import result


def with_hashes(tokenizer: str | None, config: str | None, editor: str = "rome"):
    """A result of a model with these hashes, each of one repeated digit."""
    made = result(editor=editor)
    hashes = {"tokenizer_hash": tokenizer and tokenizer * 64, "config_hash": config and config * 64}
    return msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, **hashes))


@pytest.mark.parametrize(
    ("other", "different"), [(("1", "2"), []), (("3", "2"), ["tokenizer"]), (("1", "3"), ["config"])]
)
def test_results_of_other_tokenizers_or_configurations_differ(other, different):
    a, b = with_hashes("1", "2"), with_hashes(*other, editor="ft")
    assert list(different_conditions(a, b)) == different
    runs = [Run(Path("a"), a), Run(Path("b"), b)]
    if different:
        with pytest.raises(KnbenchError, match=f"have different settings \\({different[0]}: "):
            group_by_task(runs)


@pytest.mark.parametrize("lacking", [(None, None), ("1", None), (None, "2")])
def test_a_hash_that_one_result_lacks_is_not_compared(lacking):
    a, b = with_hashes("1", "2"), with_hashes(*lacking)
    assert different_conditions(a, b) == different_conditions(b, a) == {}
    assert comparable(a) == comparable(b)
    assert section_key(a) == section_key(b)
    assert len(optional_conditions(b)) == 2 - lacking.count(None)


def entry(name: str, made) -> Entry:
    return Entry(Run(Path(name), made), {}, case_values([], "fact"), Trust("own run", 0, 1), Questions(0, ""))


def test_a_section_of_the_site_does_not_mix_tokenizers():
    old, new, other = with_hashes(None, None, "ft"), with_hashes("1", "2"), with_hashes("3", "2", "memit")
    assert len(sections_of([entry("a", old), entry("b", new)])) == 1
    with pytest.raises(
        KnbenchError, match=r"model 'm' has another tokenizer in b.* than in c.*; pass only one of them"
    ):
        sections_of([entry("a", old), entry("b", new), entry("c", other)])


def lower_case(folder):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "normalizer": {"type": "Lowercase"}}))


def other_merges(folder):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    merges = content["model"]["merges"]
    content["model"]["merges"] = merges[:-3]  # few enough for another tokenizer and not a damaged one
    file.write_text(json.dumps(content))


def add_bos(folder):
    train_tokenizer(bos=True).save_pretrained(folder)


def change_config(**values):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def other_end(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_config(hidden_act="relu"), "model.config_hash"),
        (change_config(rms_norm_eps=0.1), "model.config_hash"),
        (change_config(num_attention_heads=8, num_key_value_heads=8, head_dim=4), None),
        (other_end, "model.config_hash"),
        (lower_case, "model.tokenizer_hash"),
        (other_merges, "model.tokenizer_hash"),
        (add_bos, "model.tokenizer_hash"),
        (change_config(use_cache=False, transformers_version="1.0"), ""),
    ],
    ids=["activation", "epsilon", "heads", "end of text", "lower case", "merges", "bos", "no change"],
)
def test_a_run_is_not_continued_with_another_model(change, named, model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    arguments = ["run", "--model", folder, "--editors", "none", "--tasks", "capital", "--limit", "2"]
    arguments += ["--output", tmp_path / "out"]
    assert called(capsys, *arguments)[0] == 0
    change(folder)
    status, _, error = called(capsys, *arguments)
    assert (status == 0) == (named == "")
    if named != "":
        assert (named or "model") in error


def test_second_moments_belong_to_the_tokenizer_and_the_configuration():
    def key(lm):
        return SecondMoments(Corpus("self"))._key(lm)

    changed = make_lm("llama")
    changed.model.config.hidden_act = "relu"
    assert len({key(make_lm("llama")), key(make_lm("llama", bos=True)), key(changed)}) == 3
