"""Conformance checks: registered editors pass, and an editor that breaks one rule fails only the check of that rule."""

from __future__ import annotations

import dataclasses
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from knbench.benchmark import editing
from knbench.benchmark.commands.check_editor import check_editor_command
from knbench.benchmark.conformance.checks import CHECKS, check_editor
from knbench.benchmark.conformance.fixtures import LAYOUTS, REQUEST
from knbench.benchmark.conformance.snapshots import GlobalState
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.editing import Edit, Editor, Memory, Published, Recall, State
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.models.untrained import untrained

QUICK = ("destroyed", "ft", "in-context", "logit-bias", "memit", "none", "rome")
"""Editors of each kind whose checks every run of the tests makes; ``make test-long`` checks the others."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow, pytest.mark.long])
        for name in registry.registered(registry.EDITORS)
    ],
)
def test_every_registered_editor_passes(name):
    results = check_editor(editing.editor_class(name), name=name)
    assert {r.name: r.message for r in results if not r.ok} == {}
    assert [r.name for r in results] == [check.name for check in CHECKS]


@pytest.mark.parametrize("name", ["ft+rect", "memit+prune-each", "ft+prune-view"])
def test_compositions_with_guards_pass(name):
    # The largest singular values of the tiny models' matrices are small, which needs a large base.
    overrides = {} if name == "ft+rect" else {name.partition("+")[2].replace("-", "_") + "_base": "100"}
    results = check_editor(editing.editor_class(name), name=name, overrides=overrides)
    assert {r.name: r.message for r in results if not r.ok} == {}


class DoublePrecisionGuard(editing.Guard[editing.NoConfig]):
    name, summary, Config = "double", "returns float64", editing.NoConfig

    def update(self, lm, name, original, current, proposed):
        return proposed.double()


def test_a_guard_that_returns_another_type_fails():
    failed = {r.name for r in check_editor(editing.guarded(Good, (DoublePrecisionGuard,))) if not r.ok}
    assert failed == {"declared-parameters-only"}


# --- an editor that passes, and subclasses that break one rule each ----------------------------------------


@dataclass(frozen=True)
class Config:
    layer: int = 1
    scale: float = 0.1


class Good(Editor[Any]):
    name = "good"
    needs_subject = True
    summary = "Adds a rank-one matrix that depends on the subject"
    Config: Any = Config
    causal_only = True  # saves the third model

    def read(self, lm, request):
        """Return the neurons' activations at the subject, after two forward passes."""
        tokens, span = lm.subject_span(request.prompt, request.subject)
        lm.token_queries(request.text, request.target_new, ".")
        ids = torch.tensor([tokens.ids])
        with torch.no_grad(), capture({"k": (lm.mlp_out(self.config.layer), "input")}) as seen:
            lm.model(input_ids=ids)
            lm.model(input_ids=ids)
        return seen["k"][0, span[-1]]

    def factor(self, lm):
        return 1.0

    def matrix(self, lm, requests):
        """Return the new W."""
        layer = self.config.layer
        weight = lm.parameter(lm.mlp_weight_name(layer)).detach().clone()
        view = lm.as_stored(layer, weight)
        for request in requests:
            key = self.read(lm, request)
            view += self.config.scale * self.factor(lm) * torch.outer(torch.ones_like(view[:, 0]), key)
        return weight

    def edit(self, lm, requests):
        return Edit(weights={lm.mlp_weight_name(self.config.layer): self.matrix(lm, requests)})


def wrong(*checks):
    """Register an editor class with the checks that it must fail."""

    def register(cls):
        WRONG.append((cls, checks))
        return cls

    return register


WRONG: list[tuple[type[Editor[Any]], tuple[str, ...]]] = []


@dataclass
class Mutable:
    layer: int = 1
    scale: float = 0.1


@wrong("declared")
class MutableConfig(Good):
    Config = Mutable


@wrong("declared")
class NoSummary(Good):
    summary = " "


@wrong("declared")
class NameWithASpace(Good):
    name = "not good"


@wrong("declared")
class ZeroJointBatchSize(Good):
    joint_batch_size = 0


@dataclass(frozen=True)
class NotJson(Config):
    device: Any = field(default_factory=lambda: torch.device("cpu"))


@wrong("declared")
class ConfigIsNotJson(Good):
    Config = NotJson


@wrong("declared")
class PublishedOfAnotherConfig(Good):
    published = (Published(shape={"layers": 99}, values={"layr": 3}, source="a paper"),)


@wrong("both-layouts")
class OnlyOneLayout(Good):
    def read(self, lm, request):
        lm.model.get_submodule("model.layers")  # the name in Llama
        return super().read(lm, request)


@wrong("both-layouts")
class ReturnsNothingForOne(Good):
    def edit(self, lm, requests):
        return None if lm.model.config.model_type == "llama" else super().edit(lm, requests)


@wrong("masked-models")
class CausalOnlyNotDeclared(Good):
    causal_only = False

    def read(self, lm, request):
        assert lm.causal
        return super().read(lm, request)


@wrong("leaves-the-model-alone")
class ForgetsHook(Good):
    def edit(self, lm, requests):
        lm.mlp(0).register_forward_hook(lambda *_: None)
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone")
class LeavesGradients(Good):
    def edit(self, lm, requests):
        lm.parameter(lm.mlp_weight_name(0)).requires_grad_(True)
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone")
class LeavesGrad(Good):
    def edit(self, lm, requests):
        parameter = lm.parameter(lm.mlp_weight_name(0))
        parameter.grad = torch.zeros_like(parameter)
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone")
class LeavesGradOfText(Good):
    def prepare(self, lm, reporter):
        parameter = lm.parameter(lm.mlp_weight_name(0)).requires_grad_(True)
        with torch.enable_grad():
            lm.model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
        parameter.requires_grad_(False)
        return {}


@wrong("leaves-the-model-alone")
class LeavesTrainingMode(Good):
    def edit(self, lm, requests):
        edit = super().edit(lm, requests)
        lm.head.train()
        return edit


@wrong("leaves-the-model-alone")
class LeavesForward(Good):
    def edit(self, lm, requests):
        own = lm.mlp(0).forward
        lm.mlp(0).forward = lambda *args, **kwargs: own(*args, **kwargs)
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone")
class LeavesModule(Good):
    def prepare(self, lm, reporter):
        lm.block(0).add_module("adapter", torch.nn.Identity())
        return {}


@wrong("leaves-the-model-alone")
class LeavesGradientMode(Good):
    def edit(self, lm, requests):
        torch.set_grad_enabled(False)
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone")
class LeavesPadding(Good):
    def edit(self, lm, requests):
        lm.tokenizer.padding_side = "left"
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone")
class LeavesPrefix(Good):
    def edit(self, lm, requests):
        edit = super().edit(lm, requests)
        lm.prompt_prefix = "Note. "
        return edit


@wrong("leaves-the-model-alone")
class LeavesConfig(Good):
    def edit(self, lm, requests):
        lm.model.config.use_cache = not lm.model.config.use_cache
        return super().edit(lm, requests)


@wrong("leaves-the-model-alone", "restores-exactly")
class InPlace(Good):
    def edit(self, lm, requests):
        edit = super().edit(lm, requests)
        for name, new in edit.weights.items():
            lm.parameter(name).data.copy_(new)
        return edit


class NotRestored(Edit):
    @contextmanager
    def applied(self, lm):
        with super().applied(lm):
            yield lm
        for name in self.weights:
            lm.parameter(name).data.mul_(1.0001)


@wrong("restores-exactly")
class ForgetsToRestore(Good):
    def edit(self, lm, requests):
        return NotRestored(super().edit(lm, requests).weights)


class NotRestoredAfterAnException(Edit):
    @contextmanager
    def applied(self, lm):
        name = lm.mlp_weight_name(0)
        old = lm.parameter(name).data.clone()
        lm.parameter(name).data.zero_()
        yield lm
        lm.parameter(name).data.copy_(old)


@wrong("restores-exactly", "declared-parameters-only")
class ForgetsToRestoreAfterAnException(Good):
    def edit(self, lm, requests):
        return NotRestoredAfterAnException()


@wrong("survives-an-exception", "refuses-with-reason")
class RemovesHookAtTheEnd(Good):
    def read(self, lm, request):
        handle = lm.mlp(0).register_forward_hook(lambda *_: None)
        key = super().read(lm, request)
        handle.remove()
        return key


@wrong("survives-an-exception")
class RestoresWeightAtTheEnd(Good):
    def read(self, lm, request):
        key = super().read(lm, request)
        weight = lm.parameter(lm.mlp_weight_name(0))
        old = weight.data
        weight.data = old * 2
        lm.model(input_ids=torch.tensor([[1, 2]]))  # only this forward pass is inside
        weight.data = old
        return key


@wrong("declared-parameters-only")
class NotFinite(Good):
    def matrix(self, lm, requests):
        return super().matrix(lm, requests) * float("nan")


@wrong("declared-parameters-only")
class DoublePrecision(Good):
    def matrix(self, lm, requests):
        return super().matrix(lm, requests).double()


@wrong("declared-parameters-only")
class Transposed(Good):
    def matrix(self, lm, requests):
        return super().matrix(lm, requests).T.contiguous()


@wrong("declared-parameters-only")
class NoSuchParameter(Good):
    def edit(self, lm, requests):
        return Edit(weights={"layer.weight": self.matrix(lm, requests)})


@wrong("declared-parameters-only")
class NoSuchModule(Good):
    def edit(self, lm, requests):
        return Edit(outputs={"layer.mlp": lambda v: v}) if requests else Edit()


class ChangesMore(Edit):
    @contextmanager
    def applied(self, lm):
        name = lm.mlp_weight_name(0)
        with super().applied(lm), Edit({name: lm.parameter(name).detach() * 2}).applied(lm):
            yield lm


@wrong("declared-parameters-only")
class ChangesAnUndeclaredParameter(Good):
    def edit(self, lm, requests):
        return ChangesMore(super().edit(lm, requests).weights)


@wrong("declared-parameters-only")
class OutputsNotFinite(Good):
    def edit(self, lm, requests):
        name = next(n for n, module in lm.model.named_modules() if module is lm.mlp(1))
        return Edit(outputs={name: lambda v: v / 0})


@wrong("plain-json")
class TensorInDiagnostics(Good):
    def edit(self, lm, requests):
        return dataclasses.replace(super().edit(lm, requests), diagnostics={"loss": torch.tensor(1.0)})


@wrong("plain-json")
class NanInDiagnostics(Good):
    def edit(self, lm, requests):
        return dataclasses.replace(super().edit(lm, requests), diagnostics={"loss": float("nan")})


@wrong("plain-json")
class TensorInProvenance(Good):
    def prepare(self, lm, reporter):
        return {"mean": lm.parameter(lm.mlp_weight_name(0)).mean()}


@wrong("own-tensors")
class TheModelsOwnMemory(Good):
    def matrix(self, lm, requests):
        super().matrix(lm, requests)
        return lm.parameter(lm.mlp_weight_name(1)).detach()


@wrong("own-tensors")
class KeepsTheGraph(Good):
    def matrix(self, lm, requests):
        return super().matrix(lm, requests).requires_grad_() * 1


@wrong("own-tensors")
class OneBufferForAll(Good):
    buffer = None

    def edit(self, lm, requests):
        edit = super().edit(lm, requests)
        ((name, new),) = edit.weights.items()
        if self.buffer is None or self.buffer.dtype != new.dtype:
            self.buffer = torch.empty_like(new)
        return Edit(weights={name: self.buffer.copy_(new)})

    def edit_each(self, lm, requests):
        return [super(OneBufferForAll, self).edit(lm, [request]) for request in requests]


@wrong("half-precision")
class AlwaysFloat(Good):
    def matrix(self, lm, requests):
        return super().matrix(lm, requests).float()


@wrong("deterministic")
class PythonsRandom(Good):
    def factor(self, lm):
        return random.random()


@wrong("deterministic")
class NumpysRandomInPrepare(Good):
    def prepare(self, lm, reporter):
        self.noise = float(np.random.rand())
        return {}

    def factor(self, lm):
        return self.noise


@wrong("deterministic")
class RemembersItsEdits(Good):
    def __init__(self, config, seed=0):
        super().__init__(config, seed)
        self.count: Any = WeakKeyDictionary()

    def factor(self, lm):
        self.count[lm] = self.count.get(lm, 0) + 1
        return self.count[lm]

    def edit_each(self, lm, requests):
        return [type(self)(self.config, self.seed).edit(lm, [request]) for request in requests]


@wrong("no-state-between-models")
class CacheOfTheEditor(Good):
    def factor(self, lm):
        if not hasattr(self, "found"):
            self.found = float(lm.parameter(lm.mlp_weight_name(0)).sum())
        return self.found


@wrong("no-state-between-models")
class CacheOfTheClass(Good):
    cache: dict[int, float] = {}  # noqa: RUF012

    def factor(self, lm):
        return self.cache.setdefault(self.config.layer, float(lm.parameter(lm.mlp_weight_name(0)).sum()))


_cache: float | None = None
_seen: list[float] = []


@wrong("no-state-between-models")
class CacheOfTheModule(Good):
    def factor(self, lm):
        global _cache
        _cache = _cache if _cache is not None else float(lm.parameter(lm.mlp_weight_name(0)).sum())
        return _cache


@wrong("no-state-between-models")
class ListOfTheModule(Good):
    def factor(self, lm):
        _seen.append(float(lm.parameter(lm.mlp_weight_name(0)).sum()))
        return _seen[0]


@wrong("batch-of-one")
class WrongOrder(Good):
    def edit_each(self, lm, requests):
        return super().edit_each(lm, requests[::-1])


@wrong("batch-of-one")
class AllTogether(Good):
    def edit_each(self, lm, requests):
        return [self.edit(lm, requests) for _ in requests]


@wrong("batch-of-one")
class OneTooFew(Good):
    def edit_each(self, lm, requests):
        return super().edit_each(lm, requests[:1])


@wrong("batch-of-one")
class OneDiffersALittle(Good):
    def edit_each(self, lm, requests):
        edits = super().edit_each(lm, requests)
        return [Edit({k: v + 1e-6 for k, v in e.weights.items()}) for e in edits] if len(edits) == 1 else edits


@wrong("leaves-the-requests-alone")
class EmptiesTheRequests(Good):
    def edit(self, lm, requests):
        edit = super().edit(lm, requests)
        requests.clear()
        return edit


@wrong("refuses-with-reason")
class CrashesWithoutSubject(Good):
    def read(self, lm, request):
        lm.tokenizer(request.subject).input_ids[2 if not lm.causal else 0]
        return super().read(lm, request)

    def edit(self, lm, requests):
        try:
            return super().edit(lm, requests)
        except ValueError as error:
            raise RuntimeError("no such subject") from error


@wrong("refuses-with-reason")
class RefusesWithoutReason(Good):
    def edit(self, lm, requests):
        if len(requests) > 1:
            raise ValueError
        return super().edit(lm, requests)


@wrong("declared")
class FlagIsText(Good):
    needs_subject: Any = "yes"


@wrong("declared")
class UnknownKind(Good):
    kind: Any = "weight"


@wrong("partial-requests")
class SubjectNotDeclared(Good):
    needs_subject = False


@wrong("partial-requests")
class TrueAnswerNotDeclared(Good):
    def read(self, lm, request):
        lm.token_queries(request.text, request.target_true, ".")
        return super().read(lm, request)


@wrong("reports-its-size")
class CountsNothing(Good):
    kind = "memory"


@wrong("reports-its-size")
class CountsTwice(Good):
    def edit(self, lm, requests):
        return dataclasses.replace(super().edit(lm, requests), entries=2 * len(requests))


@wrong("reports-its-size")
class MemoryNeedsGradients(Good):
    def edit(self, lm, requests):
        return dataclasses.replace(super().edit(lm, requests), memory={"k": torch.zeros(2, requires_grad=True)})


class KeepsKeys(Good):
    """Adds less in the direction of earlier keys, which its state holds."""

    def edit_next(self, lm, requests, earlier, state=None):
        keys = [self.read(lm, request) for request in requests]
        old = [] if state is None else [tensor for name, tensor in sorted(state.tensors.items()) if name != "count"]
        name = lm.mlp_weight_name(self.config.layer)
        update = lm.as_stored(self.config.layer, self.matrix(lm, requests) - lm.parameter(name).detach())
        for key in old:
            update = update - update @ torch.outer(key, key) / (key @ key)
        new = lm.parameter(name).detach() + lm.as_stored(self.config.layer, update)
        return Edit(weights={name: new}, state=self.state([*old, *keys]))

    def state(self, keys):
        return State({str(number): key.clone() for number, key in enumerate(keys)}, {"keys": len(keys)})

    def edit(self, lm, requests):
        return self.edit_next(lm, requests, ())


@wrong("first-of-a-sequence")
class AnotherFirstEdit(KeepsKeys):
    def edit(self, lm, requests):
        return Good.edit(self, lm, requests[::-1])


@wrong("first-of-a-sequence", "state-is-immutable", "a-reverted-edit-leaves-no-trace")
class EditNextWithoutState(KeepsKeys):
    def edit_next(self, lm, requests, earlier):
        return super().edit_next(lm, requests, earlier)


@wrong("state-is-immutable")
class StateIsADict(KeepsKeys):
    def state(self, keys):
        return {"keys": keys}


@wrong("state-is-immutable")
class StateIsNotJson(KeepsKeys):
    def state(self, keys):
        return State(settings={"keys": keys})


@wrong("state-is-immutable")
class StateNeedsGradients(KeepsKeys):
    def state(self, keys):
        return State({"key": keys[0].clone().requires_grad_()})


@wrong("state-is-immutable")
class StateIsAView(KeepsKeys):
    def edit_next(self, lm, requests, earlier, state=None):
        edit = super().edit_next(lm, requests, earlier, state)
        view = lm.parameter(lm.mlp_weight_name(self.config.layer)).detach()[0]
        return dataclasses.replace(edit, state=State({"count": view, **edit.state.tensors}))


@wrong("state-is-immutable", "a-reverted-edit-leaves-no-trace")
class ChangesItsState(KeepsKeys):
    def edit_next(self, lm, requests, earlier, state=None):
        if state is not None:
            state.tensors["0"].mul_(2)
            state.tensors["0"][0] += 1
        return super().edit_next(lm, requests, earlier, state)


@wrong("state-is-immutable")
class ChangesTheUneditedWeights(KeepsKeys):
    def edit_next(self, lm, requests, earlier, state=None):
        if earlier:
            lm.unedited(lm.mlp_weight_name(self.config.layer)).mul_(2)
        return super().edit_next(lm, requests, earlier, state)


@wrong("state-is-immutable", "a-reverted-edit-leaves-no-trace")
class KeepsItsKeysItself(Good):
    def edit(self, lm, requests):
        return self.edit_next(lm, requests, ())

    def edit_next(self, lm, requests, earlier, state=None):
        self.seen = [*(self.seen if earlier else []), *requests]
        return Edit(weights={lm.mlp_weight_name(self.config.layer): self.matrix(lm, self.seen)})


@dataclass(frozen=True)
class Shift(Memory):
    """Adds a constant to the output at the end of each prompt."""

    def act(self, inputs, outputs, reading):
        where = torch.arange(inputs.shape[1])[None] == reading.end[:, None]
        return torch.where(where[..., None], outputs + self.amount(inputs, reading) * self.tensors["value"], outputs)

    def amount(self, inputs, reading):
        return 0.01


class Beside(Good):
    """Keeps a constant beside the MLP's output projection."""

    kind = "memory"
    memory: type[Memory] = Shift

    def edit(self, lm, requests):
        module = lm.mlp_out(self.config.layer)
        name = lm.module_name(module)
        with lm.without_memories(), torch.no_grad():
            value = module(torch.stack([self.read(lm, request) for request in requests])).sum(0)
        return Edit(memories={name: self.memory({"value": value}, {}, self.count(lm.memories.get(name, ()), requests))})

    def count(self, earlier, requests):
        return sum(memory.entries for memory in earlier) + len(requests)


class ByTheBatch(Shift):
    def amount(self, inputs, reading):
        return 0.01 * len(inputs)


class ByTheAnswer(Shift):
    def amount(self, inputs, reading):
        last = inputs[torch.arange(len(inputs)), reading.mask.sum(1) - 1]
        return last.sum(-1)[:, None, None]


class Overwriting(Shift):
    def act(self, inputs, outputs, reading):
        outputs += super().act(inputs, outputs, reading) - outputs
        return outputs


@wrong("routing-per-row")
class RoutesByTheBatch(Beside):
    memory = ByTheBatch


@wrong("one-decision-per-text", "routing-per-row")
class RoutesByTheAnswer(Beside):
    memory = ByTheAnswer


@wrong("pure-memory")
class WritesIntoItsInput(Beside):
    memory = Overwriting


@wrong("grows-by-its-requests")
class CountsEarlierFactsTwice(Beside):
    def count(self, earlier, requests):
        return len(requests) + 2 * len(earlier)


@dataclass(frozen=True)
class Forgetful(Recall):
    """Recalls another text after the prompt of the first request."""

    def preface(self, lm, prompt):
        before, LAST_PROMPT[:] = list(LAST_PROMPT), [prompt]
        return "Rome. " if before == [REQUEST.text] else "Canada. "


LAST_PROMPT: list[str] = []


@wrong("recalls-from-the-prompt-alone")
class RecallsByTheOrder(Good):
    kind = "context"

    def edit(self, lm, requests):
        facts = tuple(request.text for request in requests)
        return Edit(recall=Forgetful((*(lm.recall.texts if lm.recall else ()), *facts)))


def test_a_memory_that_keeps_the_rules_passes():
    assert [(r.name, r.message) for r in check_editor(Beside) if not r.ok] == []


@pytest.mark.parametrize(("cls", "checks"), [pytest.param(cls, checks, id=cls.__name__) for cls, checks in WRONG])
def test_an_editor_that_breaks_a_rule_fails_only_the_check_of_that_rule(cls, checks):
    failed = {r.name: r.message for r in check_editor(cls) if not r.ok}
    assert tuple(sorted(failed)) == tuple(sorted(checks)), failed


def test_a_module_cache_is_found_in_repeated_runs():
    for _ in range(2):
        failed = [r.name for r in check_editor(CacheOfTheModule) if not r.ok]
        assert failed == ["no-state-between-models"]


def test_every_check_can_fail_and_explains_itself():
    assert {check.name for check in CHECKS} == {name for _, checks in WRONG for name in checks}
    assert all(len(check.advice) > 60 for check in CHECKS)
    assert all(text.endswith(".") for check in CHECKS for text in (check.purpose, check.advice))


class DrawsRandomNumbers(Good):
    def factor(self, lm):
        return float(torch.rand(()))


class GoodEverywhere(Good):
    causal_only = False


class ChangesOutputs(Good):
    def edit(self, lm, requests):
        name = next(n for n, module in lm.model.named_modules() if module is lm.mlp(1))
        key = self.read(lm, requests[0]).sum()
        return Edit(outputs={name: lambda v: v + 0.01 * key})


@pytest.mark.parametrize("cls", [Good, GoodEverywhere, DrawsRandomNumbers, ChangesOutputs, KeepsKeys])
def test_editors_that_keep_the_rules_pass(cls):
    results = check_editor(cls)
    assert {r.name: r.message for r in results if not r.ok} == {}
    notes = {r.name: r.message for r in results if r.message}
    assert set(notes) == ({"batch-of-one"} if cls is DrawsRandomNumbers else set())


class Crashes(Good):
    def edit_each(self, lm, requests):
        if len(requests) > 1:
            raise RuntimeError("out of\nmemory")
        return super().edit_each(lm, requests)


class Exits(Good):
    def prepare(self, lm, reporter):
        raise SystemExit(3)


class Unfinished(Editor[Any]):
    name = "unfinished"
    summary = "Has no edit()"
    Config = Config


def test_a_crash_is_reported_with_its_position_and_other_checks_still_run():
    failed = {r.name: r.message for r in check_editor(Crashes) if not r.ok}
    assert set(failed) == {"batch-of-one"}
    assert "RuntimeError: out of memory (test_conformance.py, line " in failed["batch-of-one"]
    for cls, part in ((Exits, "SystemExit: 3"), (Unfinished, "abstract"), (object, "AttributeError")):
        results = check_editor(cls)  # type: ignore[arg-type]
        assert len(results) == len(CHECKS)
        failed = {r.name: r.message for r in results if not r.ok}
        assert part in failed["both-layouts"]
        assert "not checked" in failed["deterministic"]


def test_the_name_must_equal_that_of_the_entry_point():
    (declared,) = (r for r in check_editor(Good, name="better") if r.name == "declared")
    assert declared.message == "name is 'good', but the entry point is called 'better'"


def test_hyper_parameters_can_be_set_and_unknown_ones_are_refused():
    failed = [r for r in check_editor(Good, overrides={"layer": "9"}) if not r.ok]
    assert "layer 9 does not exist" in next(r.message for r in failed if r.name == "both-layouts")
    with pytest.raises(KnbenchError, match="did you mean 'layer'"):
        check_editor(Good, overrides={"layr": "1"})


def test_process_state_is_restored(own_cache):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    threads = torch.get_num_threads()
    check_editor(LeavesGradientMode)
    check_editor(PythonsRandom)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == threads
    assert os.environ["KNBENCH_CACHE"] == str(own_cache)


def test_global_state_restores_class_and_module_variables():
    state = GlobalState(CacheOfTheClass)
    CacheOfTheClass.cache[7] = 1.0
    CacheOfTheClass.more = 1
    _seen.append(3.0)
    globals()["_fresh"] = 1
    state.restore()
    assert CacheOfTheClass.cache == {}
    assert not hasattr(CacheOfTheClass, "more")
    assert "_fresh" not in globals()
    assert _seen == []


# --- the command -------------------------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(check_editor_command, list(arguments))


def test_the_command_prints_a_table_and_a_verdict(monkeypatch):
    done = command("none")
    assert done.exit_code == 0
    assert f"none passes all {len(CHECKS)} checks" in done.stdout
    monkeypatch.setattr(editing, "editor_class", lambda _: InPlace)
    done = command("good")
    assert done.exit_code == 1
    assert "good fails 2 of" in done.stdout
    assert "not restored to the state before edit()" in " ".join(done.stdout.split())


def test_the_command_suggests_the_nearest_name_and_shows_examples():
    with pytest.raises(KnbenchError, match="did you mean 'rome'"):
        check_editor_command.main(["rmoe"], standalone_mode=False)
    with pytest.raises(KnbenchError, match="editor 'ft' is not selected"):
        check_editor_command.main(["rome", "--editor-args", "ft.layer=1"], standalone_mode=False)
    with pytest.raises(click.MissingParameter):
        check_editor_command.main([], standalone_mode=False)
    help_text = command("--help").stdout
    assert "knbench check-editor rome" in help_text
    assert "knbench.editors" in help_text


def test_the_models_differ_in_how_they_store_a_weight():
    assert [untrained(kind).weight_is_transposed(1) for kind in LAYOUTS] == [True, False]
