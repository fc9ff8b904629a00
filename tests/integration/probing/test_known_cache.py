"""The cache of a model's knowledge, shared by processes."""

from __future__ import annotations

import json
import os
from multiprocessing import get_context

import pytest
from knbench.benchmark.probing.known import KnowledgeCache, known_cases
from knbench.benchmark.probing.prober import make_prober

from tests.conftest import make_lm
from tests.workers import towns


def measure_in_process(calls, started, release):
    """Measure through the cache, and note who measured."""

    def measure():
        with calls.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        started.set()
        assert release.wait(120)
        return {"by": os.getpid()}

    cache = KnowledgeCache.of(make_prober(make_lm("llama")))
    value = cache.get_or_measure(towns(4), "cases", measure)
    calls.with_name(f"value-{os.getpid()}").write_text(json.dumps(value))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_one_of_two_processes_measures_and_the_other_reads(tmp_path, monkeypatch, killed):
    monkeypatch.setenv("KNBENCH_CACHE", str(tmp_path / "cache"))
    spawn, calls = get_context("spawn"), tmp_path / "calls"
    started, release, second_started = spawn.Event(), spawn.Event(), spawn.Event()
    first = spawn.Process(target=measure_in_process, args=(calls, started, release))
    first.start()
    assert started.wait(120)
    second = spawn.Process(target=measure_in_process, args=(calls, second_started, release))
    second.start()
    if killed:
        first.kill()
        assert second_started.wait(120)  # the lock of a killed process blocks nobody
    else:
        assert not second_started.wait(15)
    release.set()
    for process in (first, second):
        process.join(120)
    measured = [first.pid, second.pid] if killed else [first.pid]
    assert [int(line) for line in calls.read_text().split()] == measured
    assert json.loads((tmp_path / f"value-{second.pid}").read_text()) == {"by": measured[-1]}


def test_a_value_that_cannot_be_read_is_measured_again(own_cache):
    cache = KnowledgeCache.of(make_prober(make_lm("llama")))
    value = known_cases(cache, towns(4))
    (path,) = (own_cache / "known").glob("*.json")
    good = path.read_bytes()
    path.write_bytes(good[:20])
    assert known_cases(cache, towns(4)) == value
    assert path.read_bytes() == good
