"""User-defined tasks and published data sets, through the registry and the command line."""

from __future__ import annotations

import json

import pytest
import torch
from knbench.benchmark.commands.main import main
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.probing.known import KnowledgeCache, knowledge, right_pairs
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.none import NoEdit

from tests.conftest import make_lm
from tests.files import load_result
from tests.files import run_folders as run
from tests.references.slow_probing import slow_answer

DEFINITION = """
name: towns
version: 1
kind: fact
title: Towns
description: Who lives where.
relation: person to town
licence: CC0-1.0
source: Written for a test.
citation: none
facts:
  data: [towns.jsonl]
  id: id
  subject: who
  object: town
  new: { seed: 1 }
  edit: "{} lives in"
  probes:
    paraphrase: ["The home of {who} is"]
    neighbourhood: { templates: ["{who} lives in"], count: 1 }
"""
ROWS = [("1", "Ann", "Rome"), ("2", "Bob", "Paris"), ("3", "Cleo", "Ottawa")]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "towns.yaml").write_text(DEFINITION)
    rows = [json.dumps({"id": i, "who": who, "town": town}) for i, who, town in ROWS]
    (tmp_path / "towns.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_tasks_of_a_folder_are_added_to_the_built_in_ones(folder):
    tasks, notes = registry.resolve_tasks("towns,capital", [folder])
    assert [task.name for task in tasks] == ["towns", "capital"]
    assert notes == []
    new = {case.request.subject: case.request.target_new for case in tasks[0].cases}
    assert sorted(new.values()) == ["Ottawa", "Paris", "Rome"]  # draws are balanced
    assert all(new[who] != town for _, who, town in ROWS)


def test_both_endings_of_yaml_files_are_read(folder):
    (folder / "towns.yaml").rename(folder / "towns.yml")
    (folder / "._towns.yml").write_bytes(b"\0")
    (task,), _ = registry.resolve_tasks("towns", [folder])
    assert len(task.cases) == 3


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_an_unknown_task_in_a_sub_folder_is_named(folder, ending):
    (folder / "below" / "deep").mkdir(parents=True)
    (folder / "below" / "deep" / f"cities.{ending}").write_text(DEFINITION)
    with pytest.raises(KnbenchError, match=rf"cities.{ending} is in a sub-folder.*add --include-path .*below/deep$"):
        registry.resolve_tasks("cities", [folder])


@pytest.mark.parametrize(
    ("edit", "rows"),
    [
        ("|\n    Question: Where does {} live?\n    Answer:\n", ROWS),
        ('"{}的家在"', [("1", "安", "罗马"), ("2", "鲍", "巴黎"), ("3", "克", "渥太华")]),
        ("'{} has a flat in \"'", ROWS),
    ],
)
def test_targets_are_probed_after_the_border_of_the_prompt(folder, lm, edit, rows):
    """The probability equals that of the target's tokens after the tokens of the prompt alone."""
    (folder / "towns.yaml").write_text(DEFINITION.replace('"{} lives in"\n', edit.rstrip() + "\n"))
    lines = [json.dumps({"id": i, "who": who, "town": town}) for i, who, town in rows]
    (folder / "towns.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (task,), _ = registry.resolve_tasks("towns", [folder])
    prober = make_prober(lm)
    for case in task.cases:
        probe, request = case.probes[0], case.request
        context, target = (
            lm.encode(request.text).ids,
            lm.tokenizer(request.target_new, add_special_tokens=False).input_ids,
        )
        logprobs = lm.model(input_ids=torch.tensor([[*context, *target]])).logits[0].log_softmax(-1)
        wanted = sum(float(logprobs[len(context) - 1 + n, token]) for n, token in enumerate(target))
        (observation,) = prober.observe([probe])
        assert observation.target.logprob == pytest.approx(wanted, abs=1e-4)
        assert len(observation.target.ranks) == len(target)


def test_errors_in_user_defined_tasks(folder, tmp_path):
    with pytest.raises(KnbenchError, match="is not a directory"):
        registry.resolve_tasks("towns", [tmp_path / "nowhere"])
    with pytest.raises(KnbenchError, match="did you mean 'towns'"):
        registry.resolve_tasks("twons", [folder])
    (folder / "towns.jsonl").write_text('{"id": "1"}\n{broken\n')
    tasks, _ = registry.resolve_tasks("towns", [folder])
    with pytest.raises(KnbenchError, match=r"towns.jsonl: line 2: not valid JSON"):
        tasks[0].cases[0]
    (folder / "capital.yaml").write_text(DEFINITION.replace("name: towns", "name: capital"))
    with pytest.raises(KnbenchError, match="two definitions of task 'capital'"):
        registry.resolve_tasks("towns", [folder])


def test_published_data_is_selected_by_reader_and_selection(tmp_path):
    rows = [
        {
            "sentence_good": f"{name} hurt herself.",
            "sentence_bad": f"{name} hurt himself.",
            "one_prefix_prefix": f"{name} hurt",
            "one_prefix_word_good": "herself",
            "one_prefix_word_bad": "himself",
            "field": "morphology",
            "linguistics_term": "anaphor_agreement",
            "UID": "anaphor_gender_agreement",
            "simple_LM_method": True,
            "one_prefix_method": True,
            "two_prefix_method": False,
            "lexically_identical": False,
            "pairID": str(i),
        }
        for i, name in enumerate(["Ann", "Eve", "Sue"])
    ]
    path = tmp_path / "anaphor_gender_agreement.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    tasks, notes = registry.resolve_tasks("blimp:anaphor_gender_agreement", data={"blimp": str(tmp_path)})
    assert len(tasks[0].cases) == 3
    assert len(notes) == 1
    assert "skipped 1" in notes[0]
    assert "line 4" in notes[0]
    assert tasks[0].pairs[0]["sentence_good"] == "Ann hurt herself."
    with pytest.raises(KnbenchError, match="did you mean 'anaphor_gender_agreement'"):
        registry.resolve_tasks("blimp:anaphor_gender_agrement", data={"blimp": str(tmp_path)})


def test_pairs_without_a_shared_prefix_are_scored_as_sentences(tmp_path, lm, capsys):
    uid = "matrix_question_npi_licensor_present"
    pairs = [("Should Ann ever bake?", "Ann should ever bake."), ("Had Eve ever sung?", "Eve had ever sung.")]
    rows = [
        {"sentence_good": good, "sentence_bad": bad, "UID": uid, "pairID": str(i)}
        for i, (good, bad) in enumerate(pairs)
    ]
    (tmp_path / f"{uid}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (task,), (note,) = registry.resolve_tasks(f"blimp:{uid}", data={"blimp": str(tmp_path)})
    assert len(task.cases) == 0
    assert "skipped 2 (the sentences differ in their first word: 2)" in note
    store = KnowledgeCache.of(make_prober(lm))
    scores = {
        side: [slow_answer(lm, "", pair[i])["logprob"] for pair in pairs] for i, side in enumerate(("good", "bad"))
    }
    wanted = {str(i): g > b for i, (g, b) in enumerate(zip(scores["good"], scores["bad"], strict=True))}
    assert right_pairs(store, task) == wanted
    assert knowledge(store, task)["sentences"] == sum(wanted.values()) / 2
    with pytest.raises(KnbenchError, match="measure its pairs with: knbench known"):
        run(lm, [NoEdit], [task], tmp_path / "out", RunSettings())
    main(["describe", f"blimp:{uid}", "--data", f"blimp={tmp_path}"])
    assert "none: no pair can be keyed on a cue" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize(("join", "text"), [("none", "Ann lives in:Rome"), ("space", "Ann lives in: Rome")])
def test_a_task_decides_the_space_before_its_targets(folder, kind, join, text):
    """Compares tokens, probabilities and a whole run with those of the text as it is written."""
    source = DEFINITION.replace(
        'edit: "{} lives in"', f'join: {join}\n  edit: "{{}} lives in:"\n  support: ["{{}} stays in:"]'
    )
    (folder / "towns.yaml").write_text(source.replace('lives in"], count', 'lives in:"], count'))
    task = registry.resolve_tasks("towns", [folder])[0][0]
    case = next(case for case in task.cases if case.request.subject == "Ann")
    lm = make_lm(kind)
    joined = [(p.prompt, p.target) for p in case.probes] + [(s.prompt, s.target) for s in case.request.support]
    for prompt, target in [*joined, (case.request.text, "Rome")]:
        written = prompt.removesuffix("\u2060").removesuffix(" ") + (" " if join == "space" else "") + target
        if lm.causal:
            assert sum(lm.split(prompt, target), ()) == lm.encode(written).ids
        else:
            assert lm.locate_target(prompt, target, ".")[0] == lm.encode(f"{written}.").ids
    assert lm.encode(case.request.text).ids == lm.encode("Ann lives in:").ids
    if lm.causal:
        context, ids = lm.split(case.request.text, "Rome")
        assert context + ids == lm.encode(text).ids
        assert context == lm.encode("Ann lives in:").ids
        tokens, span = lm.subject_span(case.request.prompt, "Ann", "Rome")
        assert tokens.ids == lm.encode(text).ids
        assert lm.decode(tokens.ids[span.start : span.stop]).strip() == "Ann"
    (done,) = run(lm, [NoEdit], [task], folder / "out", RunSettings(new_tokens=2))
    assert load_result(done / "result.json")["records"]["failed"] == 0
