"""Editors that break the rules of the interface: the run stops with one line, or the failure is recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import DriftSettings, RunSettings
from knbench.benchmark.editing import Edit, State
from knbench.benchmark.running.failures import failure_of
from knbench.benchmark.running.model_state import ModelState
from knbench.editors.none import NoEdit

from tests.conftest import make_lm
from tests.files import json_lines, load_result
from tests.files import run_folders as run
from tests.workers import Push, towns

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
REGIMES = [{}, {"batch_edits": 2}, {"sequential": 3}]


def editor(function, **attributes):
    """Return an editor class whose ``edit`` calls a function of the model."""
    return type("Faulty", (Push,), {"edit": lambda _self, lm, _requests: function(lm), **attributes})


def refused(lm, cls, folder, **change):
    with pytest.raises(KnbenchError) as caught:
        run(lm, [cls], [towns(4)], folder, replace(SETTINGS, **change))
    assert "\n" not in str(caught.value)
    records = folder / "push/towns/records.jsonl"
    assert not records.exists() or not records.read_text()  # no number of the faulty edit is kept
    return str(caught.value)


@pytest.mark.parametrize("change", REGIMES)
@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (lambda _: None, "None"),
        (lambda lm: lm.model, "a model (LlamaForCausalLM)"),
        (lambda _: {}, "a dict"),
        (lambda _: Edit, "a type"),
        (lambda _: [Edit()], "a list"),
        (lambda lm: lm, "a LanguageModel"),
    ],
)
def test_anything_but_an_edit_is_refused(lm, tmp_path, returned, kind, change):
    method = "edit_next" if "sequential" in change else "edit"
    assert f"editor 'push': {method}() returned {kind}, not an Edit;" in refused(
        lm, editor(returned), tmp_path, **change
    )


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"weights": None}, "an Edit whose weights is None; use a dict"),
        ({"weights": {"model.norm.weight": [1.0]}}, "an Edit whose weights['model.norm.weight'] is a list"),
        ({"outputs": {"model.norm": 3}}, "an Edit whose outputs['model.norm'] is a int"),
        ({"prefix": None}, "an Edit whose prefix is None; use a string"),
        ({"diagnostics": [1]}, "an Edit whose diagnostics is a list; use a dict"),
        ({"memory": {"m": 1}}, "an Edit whose memory['m'] is a int; use {name: tensor}"),
        ({"entries": -1}, "an Edit whose entries is -1; use a number of facts"),
        ({"state": {}}, "an Edit whose state is a dict; use State(tensors={name: tensor}"),
        ({"state": State({"k": [1.0]})}, "an Edit whose state.tensors['k'] is not a detached tensor"),
        ({"state": State(settings={"k": {1}})}, "an Edit whose state.settings cannot be written as JSON"),
    ],
)
def test_an_edit_whose_fields_have_other_types_is_refused(lm, tmp_path, fields, part):
    assert part in refused(lm, editor(lambda _: Edit(**fields)), tmp_path)


@pytest.mark.parametrize("edits", [[], [Edit()], None, [None, None]])
def test_a_joint_edit_returns_one_edit_per_request(lm, tmp_path, edits):
    cls = editor(lambda _: Edit(), joint_batch_size=2, edit_each=lambda *_: edits)
    assert "editor 'push': edit_each() returned" in refused(lm, cls, tmp_path)


def leave_hook(lm):
    lm.mlp(1).register_forward_hook(lambda _m, _i, output: output + 0.1)
    return Edit()


def leave_pre_hook(lm):
    lm.block(0).register_forward_pre_hook(lambda *_: None)
    return Edit()


def leave_backward_hook(lm):
    lm.block(0).register_full_backward_hook(lambda *_: None)
    return Edit()


def leave_train_mode(lm):
    lm.model.train()
    return Edit()


def leave_one_module_in_train_mode(lm):
    lm.mlp(2).train()
    return Edit()


def leave_gradients_on(lm):
    lm.parameter("model.norm.weight").requires_grad_(True)
    return Edit()


def leave_grad(lm):
    parameter = lm.parameter("model.norm.weight")
    parameter.grad = torch.zeros_like(parameter)
    return Edit()


def change_buffers(lm):
    for buffer in lm.model.buffers():
        buffer.data.mul_(1.1)
    return Edit()


def replace_forward(lm):
    module = lm.mlp(0)
    module.forward = lambda x: x * 0
    return Edit()


def replace_module(lm):
    lm.model.model.layers[0].mlp = torch.nn.Identity()
    return Edit()


def extend_tokenizer(lm):
    lm.tokenizer.add_tokens(["Oslo!!"])
    return Edit()


def change_config(lm):
    lm.model.generation_config.eos_token_id = 5
    return Edit()


def raise_in_train_mode(lm):
    lm.model.train()
    raise ValueError("no edit")


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (leave_hook, "hooks of model.layers.1.mlp"),
        (leave_pre_hook, "hooks of model.layers.0"),
        (leave_backward_hook, "hooks of model.layers.0"),
        (leave_train_mode, "training mode of the model"),
        (leave_one_module_in_train_mode, "training mode of model.layers.2.mlp"),
        (leave_gradients_on, "requires_grad of model.norm.weight"),
        (leave_grad, "grad of model.norm.weight"),
        (change_buffers, "buffer model.rotary_emb.inv_freq"),
        (replace_forward, "forward method of model.layers.0.mlp"),
        (replace_module, "object of model.layers.0.mlp"),
        (change_config, "model.generation_config"),
        (raise_in_train_mode, "training mode of the model"),
    ],
)
def test_state_that_an_edit_leaves_changed_stops_the_run(lm, tmp_path, function, part):
    said = refused(lm, editor(function), tmp_path)
    assert said.startswith("editor 'push' left the model changed after case 'Canada 0': ")
    assert part in said


@pytest.mark.parametrize("change", REGIMES[1:])
def test_state_is_checked_in_every_regime(lm, tmp_path, change):
    assert "hooks of model.layers.1.mlp" in refused(lm, editor(leave_hook), tmp_path, **change)


def test_a_tokenizer_that_an_edit_extends_stops_the_run(tmp_path):
    import copy

    lm = make_lm("llama")
    lm.tokenizer = copy.deepcopy(lm.tokenizer)
    assert "the tokenizer's vocabulary" in refused(lm, editor(extend_tokenizer), tmp_path)


@pytest.mark.parametrize("function", [leave_hook, leave_train_mode, change_buffers])
def test_state_that_prepare_leaves_changed_stops_the_run(lm, tmp_path, function):
    cls = editor(lambda _: Edit(), prepare=lambda _self, lm, _reporter: function(lm) and {})
    assert "editor 'push': prepare() left the model changed: " in refused(lm, cls, tmp_path)


def test_prepare_returns_a_dict(lm, tmp_path):
    cls = editor(lambda _: Edit(), prepare=lambda *_: None)
    assert "editor 'push': prepare() returned None" in refused(lm, cls, tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "gemma3", "bert"])
def test_an_edit_and_its_measurement_leave_the_state_as_it_was(kind):
    lm = make_lm(kind)
    state = ModelState(lm)
    lm.model(input_ids=torch.ones((1, 5), dtype=torch.long))
    with Edit(outputs={name: lambda x: x for name, _ in [*lm.model.named_modules()][3:4]}).applied(lm):
        assert state.differences()
    assert state.differences() == []


def test_diagnostics_become_json(lm, tmp_path):
    values = {
        "norm": torch.tensor(1.5),
        "few": torch.ones(2, dtype=torch.bfloat16),
        "many": torch.zeros(100, 3),
        "set": {5, 4},
        "nan": torch.tensor([float("nan"), 1.0]),
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "true": np.bool_(True),
        "dtype": torch.float16,
        "object": object(),
        "complex": 1j,
        "big": 2**70,
        3: range(2),
    }
    (folder,) = run(lm, [editor(lambda _: Edit(diagnostics=values))], [towns(1)], tmp_path, SETTINGS)
    assert json_lines(folder / "records.jsonl")[0]["edit"]["diagnostics"] == {
        "norm": 1.5,
        "few": [1.0, 1.0],
        "many": "float32 tensor of shape (100, 3)",
        "set": [4, 5],
        "nan": ["nan", 1.0],
        "array": [0, 1, 2],
        "scalar": 0.5,
        "true": True,
        "dtype": "torch.float16",
        "object": "object",
        "complex": "1j",
        "big": str(2**70),
        "3": [0, 1],
    }


def test_diagnostics_that_contain_themselves_end(lm, tmp_path):
    values = {}
    values["again"] = values
    run(lm, [editor(lambda _: Edit(diagnostics=values))], [towns(1)], tmp_path, SETTINGS)


def exit_in_edit(_):
    raise SystemExit("my method calls exit")


def index_beyond(_):
    return [][3]


@pytest.mark.parametrize(("function", "kind"), [(exit_in_edit, "SystemExit"), (index_beyond, "IndexError")])
def test_an_exception_of_the_editor_is_recorded_with_its_traceback(lm, tmp_path, function, kind):
    (folder,) = run(lm, [editor(function)], [towns(2)], tmp_path, SETTINGS)
    failure = json_lines(folder / "records.jsonl")[0]["failure"]
    assert (failure["phase"], failure["type"]) == ("edit", kind)
    *_, last = failure["traceback"].splitlines()
    assert last.startswith("test_editor_faults.py:")
    assert last.endswith(f" in {function.__name__}")
    assert "/" not in failure["traceback"]
    assert load_result(folder / "result.json")["records"]["failures"] == {kind: 2}


def test_a_message_keeps_file_names_and_drops_folders():
    def message(text):
        return failure_of("edit", ValueError(text)).message

    assert message("cannot open '/home/someone/models/x.bin'") == "cannot open 'x.bin'"
    assert message("see https://example.org/a/b and a/b or 3/4") == "see https://example.org/a/b and a/b or 3/4"
    assert message("C:\\Users\\someone\\x.bin is gone") == "x.bin is gone"


@pytest.mark.parametrize("change", REGIMES)
@pytest.mark.parametrize("error", [ZeroDivisionError("of the harness"), OSError(28, "No space left on device")])
def test_an_error_of_the_harness_while_measuring_stops_the_run_as_itself(lm, tmp_path, monkeypatch, error, change):
    from knbench.benchmark.probing.base import Prober

    whole = Prober.observe

    def observe(self, probes, **more):
        if more.get("compare_to") is not None:
            raise error
        return whole(self, probes, **more)

    monkeypatch.setattr(Prober, "observe", observe)
    with pytest.raises(type(error)):
        run(lm, [Push], [towns(4)], tmp_path, replace(SETTINGS, **change))


def test_a_full_disk_in_an_edit_stops_the_run(lm, tmp_path):
    def edit(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(lm, [editor(edit)], [towns(2)], tmp_path, SETTINGS)


@pytest.mark.parametrize("error", [MemoryError("short"), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_while_measuring_is_a_failed_edit(lm, tmp_path, error):
    def change(_):
        raise error

    cls = editor(lambda _: Edit(outputs={"model.layers.1.mlp": change}))
    (folder,) = run(lm, [cls], [towns(2)], tmp_path, SETTINGS)
    assert {r["failure"]["type"] for r in json_lines(folder / "records.jsonl")} == {type(error).__name__}


@pytest.mark.parametrize("change", [lambda _: None, lambda x: x[:, :1, :4], lambda x: x * float("nan")])
def test_an_output_function_that_returns_no_hidden_states_is_a_failed_edit(lm, tmp_path, change):
    (folder,) = run(
        lm, [editor(lambda _: Edit(outputs={"model.layers.1.mlp": change}))], [towns(2)], tmp_path, SETTINGS
    )
    assert load_result(folder / "result.json")["records"]["failed"] == 2


@pytest.mark.parametrize("phase", ["edit", "probe", "drift"])
def test_the_control_cannot_fail(lm, tmp_path, monkeypatch, phase):
    class Control(NoEdit):
        def edit(self, lm, requests):
            if phase == "edit":
                raise ValueError("no edit")
            return super().edit(lm, requests)

    from knbench.benchmark.probing.base import Prober
    from knbench.benchmark.probing.drift import DriftGauge

    whole = Prober.observe

    def observe(self, probes, **more):
        if phase == "probe" and more.get("compare_to") is not None:
            raise FloatingPointError("not numbers")
        return whole(self, probes, **more)

    def measure(_):
        raise FloatingPointError("not numbers")

    monkeypatch.setattr(Prober, "observe", observe)
    settings = SETTINGS
    if phase == "drift":
        monkeypatch.setattr(DriftGauge, "measure", measure)
        settings = replace(SETTINGS, drift=DriftSettings(("perplexity",)))
    with pytest.raises(
        KnbenchError, match=r"^the control 'none' failed \(\w+: (no edit|not numbers)\); it changes noth"
    ):
        run(lm, [Control], [towns(2)], tmp_path, settings)


def test_an_unedited_model_without_probabilities_is_named(tmp_path):
    lm = make_lm("llama")
    lm.parameter("model.norm.weight").data[0] = float("nan")
    with pytest.raises(
        KnbenchError, match="the unedited model 'tiny-llama' cannot be measured on task 'towns', cases 1 "
    ):
        run(lm, [NoEdit], [towns(2)], tmp_path, SETTINGS)


@pytest.mark.parametrize(("limit", "stops"), [(0, 1), (0.25, 4), (2, 3), (0.5, None), (None, None)])
def test_a_run_stops_when_more_cases_fail_than_allowed(tmp_path, limit, stops):
    from knbench.benchmark.core.progress import Reporter
    from knbench.benchmark.running.executors import ExecutorConfig, open_executor
    from knbench.benchmark.running.runner import execute

    from tests.workers import spec

    class Half(Push):
        def edit(self, lm, requests):
            if int(requests[0].subject.split()[-1]) % 2 == 0:
                raise ValueError("even")
            return super().edit(lm, requests)

    def go():
        with open_executor(ExecutorConfig("serial", threads=1)) as start:
            return execute(start(spec(SETTINGS, Half, cases=12)), tmp_path, SETTINGS, Reporter(), fail_on_error=limit)

    if stops is None:
        assert go()[0].result.records.failed == 6
        return
    with pytest.raises(KnbenchError, match=f"push on towns: {stops} of 12 cases failed, more than --fail-on-error"):
        go()
    with pytest.raises(KnbenchError, match=f"{stops + 1} of 12 cases failed"):  # recorded failures count
        go()
