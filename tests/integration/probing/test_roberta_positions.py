"""Masked models like RoBERTa number positions from the padding index: they read fewer tokens than their config says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.models.families import ModelFamily
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.probing.positions import max_positions
from knbench.editors.none import NoEdit

from tests.conftest import WIDTH, train_tokenizer
from tests.files import json_lines
from tests.files import run_folders as run
from tests.workers import towns

ROWS = 40
"""Rows of the table of position embeddings, which the configuration calls the maximum number of positions."""
KINDS = {
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForMaskedLM),
    "camembert": (transformers.CamembertConfig, transformers.CamembertForMaskedLM),
}


def make(kind, pad, rows=ROWS):
    """A tiny model with a padding token of some id, which no text contains."""
    config_class, model_class = KINDS[kind]
    tokenizer = train_tokenizer(bos=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = config_class(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=rows,
            pad_token_id=pad,
            type_vocab_size=1,
        )
        model = model_class(config).eval()
    family = ModelFamily(
        blocks="roberta.encoder.layer",
        attention="attention",
        mlp="output.dense",
        mlp_in="intermediate.dense",
        mlp_out="output.dense",
        objective="masked",
    )
    return LanguageModel(model, tokenizer, family, name=kind)


@pytest.mark.parametrize("pad", [0, 1, 5])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_number_of_positions_is_that_of_the_longest_text_that_the_model_reads(kind, pad):
    lm = make(kind, pad)
    limit = max_positions(lm)
    assert limit == ROWS - (pad + 1)
    for length in range(limit - 1, limit + 2):
        ids = torch.full((1, length), 50)
        if length <= limit:
            assert lm.model(input_ids=ids).logits.isfinite().all()
        else:
            with pytest.raises((IndexError, RuntimeError)):
                lm.model(input_ids=ids)


@pytest.mark.parametrize("kind", ["roberta"])
def test_a_run_measures_texts_up_to_the_limit_and_refuses_longer_ones(kind, tmp_path):
    task = towns(4)
    settings = RunSettings(batch_size=8, new_tokens=2)

    def failures(rows, name):
        (folder,) = run(make(kind, 1, rows), [NoEdit], [task], tmp_path / name, settings)
        return [record["failure"] and record["failure"]["message"] for record in json_lines(folder / "records.jsonl")]

    assert failures(ROWS, "enough") == [None] * 4
    # One row less than the longest case needs: it is refused before the model would raise IndexError.
    rows = ROWS
    while all(failure is None for failure in failures(rows - 1, f"rows-{rows - 1}")):
        rows -= 1
    found = failures(rows - 1, "too few")
    refused = [message for message in found if message]
    assert 0 < len(refused) <= 4
    assert all(f"the model has {rows - 3} positions" in message for message in refused)


def test_a_long_case_among_short_ones_fails_alone(tmp_path):
    task = towns(3)
    first, second, third = task.cases
    long = replace(second.probes[0], prompt="Rome is the capital of Italy. " * 9 + second.probes[0].prompt)
    second = replace(second, probes=(long, *second.probes[1:]))
    task = replace(task, cases=(first, second, third))
    (folder,) = run(make("roberta", 1), [NoEdit], [task], tmp_path, RunSettings(batch_size=8, new_tokens=2))
    found = [record["failure"] for record in json_lines(folder / "records.jsonl")]
    assert found[0] is found[2] is None
    assert (found[1]["phase"], found[1]["type"]) == ("tokenise", "ValueError")
    assert "the model has 38 positions" in found[1]["message"]


def test_a_model_that_numbers_positions_from_zero_reads_as_many_as_its_config_says():
    from tests.conftest import make_lm

    lm = make_lm("bert")
    assert lm.model.config.pad_token_id == 0
    assert max_positions(lm) == lm.model.config.max_position_embeddings
