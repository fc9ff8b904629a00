"""Stored keys in the sequential regime: the runner hands them on, also when a stopped run continues."""

from __future__ import annotations

from dataclasses import replace

import pytest
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import EditStack, build_editor, guarded
from knbench.editors.alphaedit import AlphaEdit
from knbench.editors.blue import AlphaEditBlue, Blue
from knbench.editors.encore import Encore
from knbench.editors.guards import Rect
from knbench.editors.memit_seq import MemitSeq

from tests.files import json_lines
from tests.files import run_folders as run
from tests.integration.running.test_runner import NAMES, case, task, without_timings

ARGS = {
    "layers": "0|1",
    "steps": "3",
    "ridge": "0.5",
    "contexts": "{}|He said. {}",
    "corpus_tokens": "1024",
    "corpus_length": "32",
}
EDITORS = (AlphaEdit, AlphaEditBlue, Blue, Encore, MemitSeq)
SETTINGS = RunSettings(batch_size=8, new_tokens=2, sequential=4, editor_args={editor.name: ARGS for editor in EDITORS})


def states(folder):
    records = json_lines(folder / "records.jsonl")
    assert [record["failure"] for record in records] == [None] * len(records)
    return [record["edit"]["state"] for record in records]


def test_edits_of_a_run_are_those_with_the_state_of_the_edit_before(lm, tmp_path):
    (folder,) = run(lm, [AlphaEdit], [task()], tmp_path / "stored", SETTINGS)
    stored = json_lines(folder / "records.jsonl")
    editor, _ = build_editor(AlphaEdit, lm, ARGS)
    requests = [case(name).request for name in NAMES[:4]]
    with EditStack(lm) as stack:
        for number, request in enumerate(requests):
            edit = editor.edit_next(lm, [request], requests[:number], stack.state)
            assert stored[number]["edit"]["diagnostics"]["missing"] == pytest.approx(
                edit.diagnostics["missing"], rel=1e-4
            )
            stack.push(edit)
    again = replace(SETTINGS, editor_args={"alphaedit": {**ARGS, "keys": "recomputed"}})
    (other,) = run(lm, [AlphaEdit], [task()], tmp_path / "recomputed", again)
    first, second = states(folder), states(other)
    # The keys of the first edit are the same right after it; those of layer 1 change with the second edit.
    assert first[2:] != second[2:]


@pytest.mark.parametrize("cls", EDITORS)
def test_a_stopped_run_continues_with_the_same_keys(cls, lm, tmp_path):
    class Stops(cls):
        calls = 0

        def edit_next(self, lm, requests, earlier, state=None):
            Stops.calls += 1
            if Stops.calls > 2:
                raise KeyboardInterrupt
            return super().edit_next(lm, requests, earlier, state)

    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [task()], tmp_path / "a", SETTINGS)
    (resumed,) = run(lm, [cls], [task()], tmp_path / "a", SETTINGS)
    (whole,) = run(lm, [cls], [task()], tmp_path / "b", SETTINGS)
    assert without_timings(resumed) == without_timings(whole)


@pytest.mark.parametrize(("keys", "replays"), [("stored", False), ("recomputed", True)])
def test_recomputed_keys_read_earlier_requests_again(lm, keys, replays):
    for cls in (AlphaEdit, guarded(AlphaEdit, (Rect,))):
        assert build_editor(cls, lm, {"layers": "1", "keys": keys})[0].replays is replays
