"""Large files: time and memory of reading, and the number of observations that ``knbench known`` holds at once."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from knbench.benchmark.core.records import Answer, Observation
from knbench.benchmark.probing import known
from knbench.benchmark.probing.known import known_cases

from tests.unit.tasks.readers.samples import COUNTERFACT, read_task

MEASURE = """
import json, resource, sys, time
from knbench.benchmark.core import registry
reader = registry.load(registry.registered(registry.READERS)["counterfact"])
start = time.process_time()
task, _ = reader.read(None, sys.argv[1])
seconds = time.process_time() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([len(task.cases), seconds, memory]))
"""


def records(count):
    for number in range(count):
        rewrite = {**COUNTERFACT["requested_rewrite"], "subject": f"Person {number}"}
        yield {
            **COUNTERFACT,
            "case_id": number,
            "requested_rewrite": rewrite,
            "paraphrase_prompts": [f"Some words. Person {number} spoke", f"Other words. Person {number}, a native"],
            "neighborhood_prompts": [f"The mother tongue of Person {number + n} is" for n in range(1, 11)],
            "attribute_prompts": [f"Person {n} is a native speaker of" for n in range(10)],
            "generation_prompts": [f"Person {number} was born in"] * 10,
        }


@pytest.mark.slow
@pytest.mark.alone
def test_twenty_thousand_records_take_seconds_and_little_memory(tmp_path):
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(list(records(20_000))))
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    cases, seconds, memory = json.loads(done.stdout)
    assert cases == 20_000
    assert seconds < 10
    assert memory < 10**9


def test_known_measures_a_large_task_in_blocks(tmp_path, monkeypatch):
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(list(records(2500))))
    task, _ = read_task("counterfact", None, str(path))
    sizes = []

    def observe(probes):
        sizes.append(len(probes))
        answer = Answer(logprob=-1.0, token_logprobs=(-1.0,), ranks=(0,), argmax=(1,))
        return [Observation(target_answer=answer, rival_answer=answer, generated=p.target) for p in probes]

    monkeypatch.setattr(known, "readable_cases", lambda _prober, cases: (list(cases), {}))
    cache = SimpleNamespace(
        prober=SimpleNamespace(observe=observe), get_or_measure=lambda _task, _name, measure: measure()
    )
    found = known_cases(cache, task)
    assert len(found) == 2500
    assert all(value["exact"] and value["generated"] and not value["success"] for value in found.values())
    assert sum(sizes) == 2500
    assert max(sizes) <= known.CASES_PER_BLOCK
