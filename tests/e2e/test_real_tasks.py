"""Tasks on the default model: its knowledge, agreement with lm-eval, and published data edited with ROME."""

from __future__ import annotations

from dataclasses import replace

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.probing.known import KnowledgeCache, ranked_first, right_pairs
from knbench.benchmark.probing.lm_eval_tasks import export_task
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.rome import Rome

from tests.conftest import SHARED
from tests.files import load_result
from tests.files import run_folders as run

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_model_knows_the_tasks(real_lm):
    cache = KnowledgeCache.of(make_prober(real_lm, batch_size=64))
    tasks = registry.tasks()
    capitals = replace(tasks["capital"], cases=tasks["capital"].cases[::3])  # docs/explanation/known.md covers all
    first = list(ranked_first(cache, capitals).values())
    assert sum(first) / len(first) >= 0.5
    phenomena = [task for name, task in tasks.items() if name.startswith(("det-noun", "anaphor"))]
    some = [replace(task, pairs=task.pairs[:60]) for task in phenomena]
    shares = [sum(right.values()) / len(right) for right in (right_pairs(cache, task) for task in some)]
    assert len(shares) == 5
    assert sum(shares) / len(shares) >= 0.85


def test_lm_eval_agrees_on_every_pair(real_lm, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    task = registry.task("anaphor-gender")
    export_task(task, tmp_path)
    before = real_lm.weight_hash()
    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=real_lm.model, tokenizer=real_lm.tokenizer, batch_size=32),
        tasks=["knbench_anaphor_gender"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    theirs = {s["doc"]["pairID"]: bool(s["acc"]) for s in results["samples"]["knbench_anaphor_gender"]}
    assert theirs == right_pairs(KnowledgeCache.of(make_prober(real_lm)), task)
    assert results["results"]["knbench_anaphor_gender"]["acc,none"] == sum(theirs.values()) / 200
    assert real_lm.weight_hash() == before


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("pararel:P36", "pararel/data_all_allbags.json"),
        pytest.param("blimp:determiner_noun_agreement_1", "blimp", marks=pytest.mark.long),
        pytest.param("blimp:determiner_noun_agreement_2", "blimp", marks=pytest.mark.long),
    ],
)
def test_rome_edits_published_data(real_lm, tmp_path, name, source):
    path = SHARED / "data" / source
    if not path.exists():
        pytest.skip(f"published data not found at {path}")
    task, _ = registry.published_task(name, {name.split(":")[0]: str(path)})
    (folder,) = run(real_lm, [Rome], [task], tmp_path, RunSettings(limit=2))
    result = load_result(folder / "result.json")
    assert result["records"] | {"sha256": ""} == {
        "file": "records.jsonl",
        "sha256": "",
        "cases": 2,
        "failed": 0,
        "failures": {},
    }
    success = {r["criterion"]: r["value"] for r in result["summary"] if r["measure"] == "success"}
    assert success["reliability"] >= 0.8
