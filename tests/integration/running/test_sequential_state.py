"""Edit.state: handed from edit to edit, taken back with an edit, part of the fingerprint of a continued run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, Editor, EditStack, NoConfig, State

from tests.files import json_lines
from tests.files import run_folders as run
from tests.integration.running.test_runner import NAMES, task

SETTINGS = RunSettings(batch_size=8, new_tokens=2)


class Counts(Editor[NoConfig]):
    """Nudges one matrix by the number of earlier edits, which it reads from its state."""

    name, summary, Config = "counts", "for tests", NoConfig

    def edit(self, lm, requests):
        return self.edit_next(lm, requests, ())

    def edit_next(self, lm, requests, earlier, state=None):
        seen = () if state is None else tuple(state.settings["seen"])
        assert list(seen) == [r.subject for r in earlier]
        name = lm.mlp_weight_name(1)
        new = lm.parameter(name).detach() + 0.01 * (1 + len(seen))
        subjects = [*seen, *(r.subject for r in requests)]
        return Edit(weights={name: new}, state=State({"n": torch.tensor([len(subjects)])}, {"seen": subjects}))


def test_each_edit_gets_the_state_of_the_previous_one(lm, tmp_path):
    (folder,) = run(lm, [Counts], [task()], tmp_path, replace(SETTINGS, sequential=4))
    edits = [r["edit"] for r in json_lines(folder / "records.jsonl")]
    assert len({edit["state"] for edit in edits}) == 4
    weights = 4 * lm.parameter(lm.mlp_weight_name(1)).numel()
    assert [edit["size"] for edit in edits] == [{"weights": weights, "memory": 0, "state": 8, "entries": 0}] * 4


def test_single_and_batch_edits_get_no_state(lm, tmp_path):
    for number, settings in enumerate((SETTINGS, replace(SETTINGS, batch_edits=2))):
        (folder,) = run(lm, [Counts], [task()], tmp_path / str(number), settings)
        assert {r["failure"] for r in json_lines(folder / "records.jsonl")} == {None}


def test_the_state_of_an_edit_that_is_taken_back_is_not_handed_on(lm, tmp_path):
    class Breaks(Counts):
        def edit_next(self, lm, requests, earlier, state=None):
            edit = super().edit_next(lm, requests, earlier, state)
            if requests[0].subject != NAMES[1]:
                return edit
            return replace(edit, weights={name: torch.full_like(new, 3e38) for name, new in edit.weights.items()})

    (folder,) = run(lm, [Breaks], [task()], tmp_path, replace(SETTINGS, sequential=4))
    records = json_lines(folder / "records.jsonl")
    assert [r["failure"] and r["failure"]["phase"] for r in records] == [None, "probe", None, None]


def test_a_continued_run_compares_the_state_besides_the_weights(lm, tmp_path):
    class Fickle(Counts):
        calls = 0

        def edit_next(self, lm, requests, earlier, state=None):
            Fickle.calls += 1
            if Fickle.calls == 3:
                raise KeyboardInterrupt
            edit = super().edit_next(lm, requests, earlier, state)
            return replace(edit, state=State({"calls": torch.tensor([Fickle.calls])}, edit.state.settings))

    settings = replace(SETTINGS, sequential=3)
    with pytest.raises(KeyboardInterrupt):
        run(lm, [Fickle], [task()], tmp_path, settings)
    with pytest.raises(KnbenchError, match="applied again, gives other weights or another state"):
        run(lm, [Fickle], [task()], tmp_path, settings)


def test_a_stopped_run_continues_with_the_same_states(lm, tmp_path):
    class Stops(Counts):
        calls = 0

        def edit_next(self, lm, requests, earlier, state=None):
            Stops.calls += 1
            if Stops.calls == 3:
                raise KeyboardInterrupt
            return super().edit_next(lm, requests, earlier, state)

    settings = replace(SETTINGS, sequential=4)
    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [task()], tmp_path / "a", settings)
    (resumed,) = run(lm, [Counts], [task()], tmp_path / "a", settings)
    (whole,) = run(lm, [Counts], [task()], tmp_path / "b", settings)
    first, second = ([r["edit"] for r in json_lines(f / "records.jsonl")] for f in (resumed, whole))
    assert first == second


def test_the_stack_holds_the_state_of_the_last_edit(lm):
    states = [State(settings={"number": n}) for n in range(2)]
    with EditStack(lm) as stack:
        assert stack.state is None
        stack.push(Edit(state=states[0]))
        stack.push(Edit(state=states[1]))
        assert stack.state is states[1]
        stack.pop()
        assert stack.state is states[0]
        stack.push(Edit())
        assert stack.state is None


def test_the_mappings_of_a_state_cannot_be_changed():
    given = {"k": torch.zeros(2)}
    state = State(given, {"n": 1})
    given["other"] = torch.zeros(1)
    assert set(state.tensors) == {"k"}
    with pytest.raises(TypeError):
        state.settings["n"] = 2  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.tensors = {}  # type: ignore[misc]


DIGEST = """
import torch
from knbench.benchmark.editing import State
tensors = {"b": torch.arange(6.).reshape(2, 3), "a": torch.ones(2, dtype=torch.bfloat16)}
print(State(tensors, {"y": 1, "x": [2]}).digest())
"""


def test_the_digest_depends_on_every_part_and_on_nothing_else():
    tensor = torch.arange(6.0).reshape(2, 3)
    same = [
        State({"b": tensor, "a": torch.ones(2, dtype=torch.bfloat16)}, {"y": 1, "x": [2]}),
        State({"a": torch.ones(2, dtype=torch.bfloat16), "b": tensor.T.clone().T}, {"x": [2], "y": 1}),
    ]
    other_process = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    assert {state.digest() for state in same} == {other_process.stdout.strip()}
    variants = [
        State({"b": tensor}, {}),
        State({"c": tensor}, {}),
        State({"b": tensor.reshape(3, 2)}, {}),
        State({"b": tensor.double()}, {}),
        State({"b": tensor + 1}, {}),
        State({"b": tensor}, {"x": 1}),
        State({}, {"x": 1}),
        State(),
    ]
    assert len({state.digest() for state in variants}) == len(variants)
