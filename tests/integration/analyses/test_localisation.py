"""Localisation, suppression and their commands: identities, a planted neuron, hand-computed values, resumption."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from knbench.benchmark.analyses.base import AnalysisPart, run_analysis
from knbench.benchmark.analyses.localisation import (
    LocaliseSettings,
    PromptGroup,
    build_prompt_groups,
    localise,
    neuron_overlap,
    r1_squared,
    summarise_groups,
)
from knbench.benchmark.analyses.suppression import (
    Frame,
    build_frames,
    compare_distributions,
    neuron_edit,
    parse_word_class,
    suppress,
    word_probabilities,
)
from knbench.benchmark.analyses.tracing import summarise_traces
from knbench.benchmark.analyses.word_frequency import correlate_with_frequency, count_following_nouns
from knbench.benchmark.commands.known import COLUMNS
from knbench.benchmark.commands.main import main
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Support
from knbench.benchmark.models.attribution import Integral
from knbench.benchmark.results.analysis_figures import analysis_figures
from knbench.benchmark.results.audit import earlier_version
from knbench.benchmark.results.documents import find_documents
from knbench.benchmark.results.io import ANALYSIS, sha256_of
from knbench.benchmark.running.provenance import describe_model

from tests.conftest import make_lm
from tests.files import json_lines
from tests.references.slow_probing import slow_answer

PROMPTS = (Support("The capital of Italy is", "Rome"), Support("You saw", "Rome"), Support("Susan revealed", "Rome"))


def test_r1_squared_measures_similarity_of_directions():
    same = torch.tensor([[1.0, 2.0, 0.0], [3.0, 6.0, 0.0], [-1.0, -2.0, 0.0]])
    assert r1_squared(same) == pytest.approx(1)
    assert r1_squared(torch.eye(4)) == pytest.approx(0)
    two = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert r1_squared(two) == pytest.approx(0.6)  # the cosine of their angle
    random = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    unit = random / random.norm(dim=1, keepdim=True)
    largest = torch.linalg.svdvals(unit.double())[0] ** 2
    assert r1_squared(random) == pytest.approx(float((largest - 1) / 5))
    with pytest.raises(ValueError, match="at least two"):
        r1_squared(two[:1])
    with pytest.raises(ValueError, match="no direction"):
        r1_squared(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def planted(kind, neuron=(2, 7)):
    """Return a model in which a single neuron writes to the residual stream, and writes the word Rome."""
    lm = make_lm(kind)
    layer, index = neuron
    for n in range(lm.n_layers):
        weight = lm.parameter(lm.mlp_weight_name(n))
        weight.data = torch.zeros_like(weight)
    token = lm.tokenizer(" Rome", add_special_tokens=False).input_ids[0]
    column = lm.model.get_output_embeddings().weight.detach()[token]
    matrix = lm.as_stored(layer, lm.parameter(lm.mlp_weight_name(layer)).data)
    matrix[:, index] = column * 3
    lm.mlp_in(layer).bias.data[index] = 4.0  # the neuron is active at every position
    return lm


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_localise_finds_a_planted_neuron(kind):
    lm = planted(kind)
    found = localise(lm, PromptGroup("Rome", PROMPTS), LocaliseSettings(prompts=3, integral=Integral(5)))
    assert found["neurons"] == [[2, 7]]
    assert found["r1_squared"] == pytest.approx(1, abs=1e-6)
    assert [p["prompt"] for p in found["prompts"]] == [s.prompt for s in PROMPTS]


def test_suppressing_a_planted_neuron_lowers_its_word_and_is_restored():
    lm = planted("gpt2")
    before = lm.weight_hash()
    plain = slow_answer(lm, "You saw", "Rome")["logprob"]
    with neuron_edit(lm, [(2, 7)], "suppress").applied(lm):
        assert slow_answer(lm, "You saw", "Rome")["logprob"] < plain - 1
        assert not lm.as_stored(2, lm.parameter(lm.mlp_weight_name(2)))[:, 7].any()
    with neuron_edit(lm, [(2, 7)], "enhance").applied(lm):
        assert slow_answer(lm, "You saw", "Rome")["logprob"] > plain
    assert lm.weight_hash() == before
    with pytest.raises(KnbenchError, match="neuron 2:9999 does not exist"):
        neuron_edit(lm, [(2, 9999)], "suppress")


def test_groups_have_the_same_number_of_prompts_for_facts_and_phenomena():
    settings = LocaliseSettings(prompts=9, groups=4)
    for name in ("capital", "anaphor-gender", "det-noun-agreement", "subject-verb-agreement"):
        task = registry.task(name)
        groups = build_prompt_groups(task, task.cases, settings)
        assert [len(group.prompts) for group in groups] == [9] * 4
        assert groups == build_prompt_groups(task, task.cases[::-1], settings)
        assert groups != build_prompt_groups(task, task.cases, replace(settings, seed=1))
    agreement = build_prompt_groups(registry.task("anaphor-gender"), registry.task("anaphor-gender").cases, settings)
    assert len({p for group in agreement for p in group.prompts}) == 36  # no prompt occurs twice
    (capital,) = build_prompt_groups(
        registry.task("capital"), registry.task("capital").cases, replace(settings, groups=1)
    )
    assert len({p.target for p in capital.prompts}) == 1
    assert [group.name for group in agreement] == ["herself", "herself #2", "himself", "himself #2"]
    cues = build_prompt_groups(registry.task("det-noun-agreement"), registry.task("det-noun-agreement").cases, settings)
    assert {group.name for group in cues} == {"this", "that", "these", "those"}


def row(task, kind, neurons, tau=0.5, r=0.2, failure=None):
    if failure:
        return {"task": task, "kind": kind, "failure": failure}
    return {
        "task": task,
        "kind": kind,
        "neurons": neurons,
        "tau": tau,
        "r1_squared": r,
        "prompts": [0] * 9,
        "failure": None,
    }


ROWS = [
    row("capital", "fact", [[0, 1], [2, 5]], tau=0.7, r=0.1),
    row("capital", "fact", [[0, 1], [1, 1], [1, 2], [2, 6]], tau=0.6, r=0.3),
    row("agreement", "linguistic", [[2, 5], [0, 1]]),
    row("agreement", "linguistic", [], failure="ValueError: x"),
]


def test_measures_by_hand():
    facts, phenomena = summarise_groups(ROWS, 3)
    assert (facts["neurons"]["value"], facts["tau"]["value"]) == (3.0, pytest.approx(0.65))
    assert facts["r1_squared"]["value"] == pytest.approx(0.2)
    assert facts["neurons"]["low"] == 0.0  # the interval of a count is cut at 0
    assert (facts["layers"], facts["groups"], facts["prompts"]) == ([2, 2, 2], 2, 18)
    assert (phenomena["groups"], phenomena["failed"], phenomena["layers"]) == (1, 1, [1, 0, 1])


def test_overlap_by_hand():
    found = neuron_overlap(ROWS)
    assert found["tasks"] == ["capital", "agreement"]
    assert found["jaccard"][0][0] == pytest.approx(1 / 5)  # one shared neuron of five
    assert found["jaccard"][0][1] == pytest.approx((1 + 1 / 5) / 2)
    assert found["jaccard"][1][1] is None  # a task with a single group has no pairs


WORDS = {"singular": ("this", "that"), "plural": ("these", "those")}


def agreement(cue, noun, other):
    request = EditRequest("Susan saw {} big", cue, other, noun)
    return Case(f"{cue}-{noun}", request, (Probe("reliability", "completion", request.text, other, noun, "new"),))


def test_frames_are_sentences_with_a_slot_for_the_word():
    cases = [agreement("this", "book", "books"), agreement("those", "books", "book"), agreement("the", "book", "books")]
    assert build_frames(cases, WORDS) == [
        Frame("Susan saw", " big book", "singular"),
        Frame("Susan saw", " big books", "plural"),
    ]
    reflexive = Case("x", EditRequest("{} revealed", "Susan", "himself", "herself"), ())
    assert build_frames([reflexive], parse_word_class("reflexives")) == [Frame("Susan revealed", "", "feminine")]
    with pytest.raises(KnbenchError, match="no case has a cue or an answer in the word class"):
        build_frames([cases[2]], WORDS)


def test_word_probabilities_of_a_causal_model_follow_bayes_rule():
    lm = make_lm("llama")
    frame = Frame("Susan saw", " book.", "singular")
    found = word_probabilities(lm, [frame], WORDS)
    joint = [
        math.exp(slow_answer(lm, "Susan saw", f"{w} book.")["logprob"]) for w in ("this", "that", "these", "those")
    ]
    assert found[0].tolist() == pytest.approx([j / sum(joint) for j in joint], rel=1e-3)


def test_word_probabilities_of_a_masked_model_are_read_at_the_slot():
    lm = make_lm("bert")
    found = word_probabilities(lm, [Frame("Susan saw", " book", "singular")], WORDS)
    token_queries = lm.token_queries("Susan saw", "this", " book.")
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([token_queries[0].ids])).logits[0, token_queries[0].position]
    assert len(token_queries) == 1
    assert found[0, 0] == pytest.approx(float(logits.softmax(-1)[token_queries[0].token]), rel=1e-3)


def test_changes_and_flips_by_hand():
    frames = [Frame("a", "", "singular"), Frame("b", "", "plural")]
    before = np.array([[0.4, 0.2, 0.3, 0.1], [0.1, 0.1, 0.6, 0.2]])
    after = np.array([[0.2, 0.2, 0.5, 0.1], [0.1, 0.1, 0.3, 0.5]])
    found = compare_distributions(before, after, frames, WORDS)
    assert found["flipped"]["value"] == 0.5  # the first flips to plural; the second changes its word within the group
    assert (found["right_before"], found["right_after"]) == (1.0, 0.5)
    changes = {(r["frames"], r["word"]): r["relative_change"] for r in found["words"]}
    assert changes["singular", "this"] == pytest.approx(-0.5)
    assert changes["plural", "those"] == pytest.approx(1.5)


def test_suppressing_no_neuron_changes_nothing():
    lm = make_lm("llama")
    frames = [Frame("Susan saw", " book", "singular"), Frame("You saw", " books", "plural")]
    found = suppress(lm, [], "suppress", frames, WORDS, lambda: word_probabilities(lm, frames, WORDS))
    assert {r["relative_change"] for r in found["words"]} == {0.0}
    assert found["flipped"]["value"] == 0.0


def test_following_nouns_are_counted_by_number():
    sentences = ["the book", "the books", "this book", "this book", "these books", "the is", "this is", "that book"]
    text = " ".join([*sentences, "run the x the book the books"]).split()
    assert count_following_nouns(text, ["this", "these", "that"]) == {"this": (2, 0), "these": (0, 1), "that": (1, 0)}


def test_a_change_in_the_order_of_frequency_has_rank_correlation_one():
    counts = {"a": (9, 0), "b": (5, 5), "c": (2, 8), "d": (0, 9), "unseen": (0, 0)}
    rows = [
        {"frames": "plural", "word": w, "relative_change": c} for w, c in zip(counts, (-1, 0, 1, 3, 9), strict=True)
    ]
    found = correlate_with_frequency(rows, counts)["correlation"]["plural"]
    assert (found["rho"], found["words"]) == (pytest.approx(1.0), 4)


@pytest.mark.parametrize(
    ("text", "complaint"), [("determinrs", "did you mean 'determiners'"), ("a=b", "at least two groups")]
)
def test_an_invalid_word_class_is_refused(text, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        parse_word_class(text)
    assert parse_word_class("x=this|that,y=these") == {"x": ("this", "that"), "y": ("these",)}


def test_a_stopped_analysis_is_continued(tmp_path):
    lm, calls = make_lm("llama"), []

    def part(name, stop=False, fail=False):
        def work():
            calls.append(name)
            if stop:
                raise KeyboardInterrupt
            if fail:
                raise ValueError("no such thing\nat all")
            return {"found": name}

        return AnalysisPart(name, "t", "fact", work)

    def start(parts, settings=None):
        return run_analysis(
            "localise", lm, describe_model(lm), settings or {"a": 1}, parts,
            lambda rows: {"found": [r.get("found") for r in rows]}, tmp_path, Reporter(),
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        start([part("one"), part("two", stop=True), part("three", fail=True)])
    document = start([part("one"), part("two"), part("three", fail=True)])
    assert calls == ["one", "two", "two", "three"]
    assert document["result"] == {"found": ["one", "two", None]}
    assert document["parts"]["failed"] == 1
    lines = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert lines[-1]["failure"] == "ValueError: no such thing"
    with pytest.raises(KnbenchError, match=r"settings.a: 1 there, 2 now"):
        start([part("one")], {"a": 2})


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    lm = make_lm("gpt2")
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_three_commands_write_a_document_and_figures(small_model, tmp_path, capsys):
    shared = ["--model", str(small_model), "--tasks", "det-noun-agreement", "--all-cases"]
    calls = {
        "localise": ["--groups", "2", "--prompts", "2", "--steps", "2"],
        "suppress": ["--groups", "2", "--prompts", "2", "--limit", "3"],
        "trace": ["--limit", "2", "--samples", "2"],
    }
    for name, args in calls.items():
        folder = tmp_path / name
        main([name, *shared, *args, "--output", str(folder)])
        out = capsys.readouterr().out
        document = json.loads((folder / "analysis.json").read_text())
        assert document["analysis"] == name
        assert document["parts"]["count"] == 2
        figures = list(folder.glob("*.svg"))
        assert figures
        for figure in figures:
            assert ET.parse(figure)
        assert {f.name: f.read_text() for f in figures} == analysis_figures(document)
        assert "det-noun-agreement" in out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["trace", "--tasks", "capitl"], "did you mean 'capital'"),
        (["suppress", "--tasks", "det-noun-agreement", "--neurons", "3"], "LAYER:INDEX, such as 12:304"),
        (["suppress", "--tasks", "det-noun-agreement", "--words", "nouns"], "unknown word class 'nouns'"),
        (["suppress", "--tasks", "det-noun-agreement", "--corpus", "no.txt"], "cannot be read"),
        (["localise", "--tasks", "capital", "--threshold", "2"], "threshold"),
    ],
)
def test_errors_are_one_line(args, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["known", "localise", "suppress", "trace"])
def test_the_analyses_in_the_docs_equal_the_summary_of_their_parts(name):
    folder = Path(__file__).parents[3] / "docs/analyses" / f"{name}-smollm2-135m"
    (document,) = find_documents([folder], ANALYSIS)
    rows = json_lines(folder / "parts.jsonl")
    assert document["analysis"] == name
    assert document["parts"]["sha256"] == sha256_of(folder / "parts.jsonl")
    assert document["parts"] | {"sha256": ""} == {"file": "parts.jsonl", "sha256": "", "count": len(rows), "failed": 0}
    if name == "known":
        # The knowledge of a case does not depend on criteria that a later version of its task added.
        asked = {task.name: {task.version: task} for task in registry.tasks().values()}
        about = document["settings"]["tasks"]
        assert set(about) <= set(asked)  # tasks that were added later are on no page yet
        for task, found in about.items():
            current = registry.task(task)
            if found["version"] != current.version:
                added = [name for name in current.criteria if name != "specificity"]
                asked[task][found["version"]] = earlier_version(current, found["version"], added)
            assert asked[task][found["version"]].content_hash() == found["content"], task
        for summary, row in zip(document["result"]["tasks"], rows, strict=True):
            assert {c: row[c] for c in COLUMNS} == {c: summary[c] for c in COLUMNS}
    if name == "localise":
        assert document["result"]["tasks"] == summarise_groups(rows, document["model"]["layers"])
        assert document["result"]["overlap"] == neuron_overlap(rows)
    if name == "trace":
        assert document["result"]["tasks"] == summarise_traces(rows)
