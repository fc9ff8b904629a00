"""The cost of edits, from their records."""

from __future__ import annotations

from knbench.benchmark.core.records import SizeRecord, Timings
from knbench.benchmark.scoring.summary import cost


class Case:
    """The parts of a record that the cost is computed from."""

    def __init__(self, size: SizeRecord | None, timings: Timings, probes: int = 2) -> None:
        self.edit = type("Edit", (), {"size": size})()
        self.timings, self.probes = timings, (None,) * probes


def test_bytes_per_fact_and_seconds_per_query():
    slow = Timings(edit_seconds=1.0, probe_seconds=3.0, peak_memory_mb=5.0, unedited_seconds=2.0)
    fast = Timings(edit_seconds=3.0, probe_seconds=2.0, peak_memory_mb=4.0, unedited_seconds=2.0)
    none = Timings(edit_seconds=None, probe_seconds=None, peak_memory_mb=None)
    first = SizeRecord(weights=0, memory=10, state=0, entries=1, recall=5)
    last = SizeRecord(weights=0, memory=30, state=0, entries=4, recall=10)
    found = cost([Case(first, slow), Case(last, fast), Case(None, none)])
    assert (found.edit_seconds, found.probe_seconds, found.peak_memory_mb) == (2.0, 2.5, 5.0)
    assert (found.bytes_per_fact, found.seconds_per_query) == (10.0, 0.25)


def test_methods_without_a_store_have_no_bytes_per_fact():
    weights = SizeRecord(weights=100, memory=0, state=8, entries=0)
    found = cost([Case(weights, Timings(edit_seconds=1.0, probe_seconds=1.0, peak_memory_mb=None))])
    assert (found.bytes_per_fact, found.seconds_per_query) == (None, None)
