"""The conformance suite: what every editing method owes the harness, as checks that its author can run.

``knbench check-editor NAME`` runs them for a registered method, :func:`check_editor` for any class. The models are
tiny and random, so a pass says that a method keeps the rules, not that it edits well.

A check is a generator: it yields one sentence for each thing that is wrong. Its docstring is shown to the author, so
it says what is asked and why. Every check starts from fresh models and editors, so that one defect is told by the
check that it belongs to and does not make the others fail.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import json
import os
import random
import re
import sys
import tempfile
import traceback
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from tokenizers import normalizers
from torch import Tensor, nn

from ..core import registry
from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import EditRequest, Support, derived_seed
from ..editing import Edit, Editor, build_editor, parse_overrides
from ..models.language_model import LanguageModel
from ..models.untrained import UntrainedKind, untrained
from ..running.provenance import describe_editor
from ..running.regimes import seeded

REQUEST = EditRequest(
    "The capital of {} is",
    "Canada",
    "Rome",
    "Ottawa",
    support=(
        Support("The national capital of Canada is", "Ottawa"),
        Support("As its capital, Canada has", "Ottawa"),
        Support("People say that the capital of Canada is", "Ottawa"),
        Support("On the map, the capital of Canada is", "Ottawa"),
    ),
)
OTHER = EditRequest(
    "It is in the city of {} that people like",
    "Paris",
    "Mexico City",
    "medicine",
    support=(
        Support("Those who visit Paris like", "medicine"),
        Support("In Paris people often ask about", "medicine"),
        Support("The sisters in Paris like", "medicine"),
        Support("Paris, it is known, likes", "medicine"),
    ),
)
"""Differs from the first in every length, so that a batch of both needs padding."""

LAYOUTS: tuple[UntrainedKind, ...] = ("gpt2", "llama")
STEPS = 3
"""What a method's ``steps`` are lowered to: mechanics show in the first steps."""

SAME = 1e-3
"""How far an edit that was computed in a batch may be from the single one, relative to the length of the change."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes:
        name: of the check.
        ok: whether the method keeps the rule.
        message: what is wrong; or, of a check that passed, what it could not look at.
        explanation: what is asked, and why.
    """

    name: str
    ok: bool
    message: str
    explanation: str


class Note(str):
    """Yielded by a check in place of a complaint: something that could not be compared."""


class Injected(RuntimeError):
    """Raised by the suite inside an editor, where a real run could run out of memory."""


@dataclass(frozen=True)
class Check:
    """A rule: a function of a :class:`Suite`, or of a :class:`Bench` for each kind of model that can be edited."""

    function: Callable[[Any], Iterator[str]]
    per_model: bool

    @property
    def name(self) -> str:
        """The function's name as the command line spells it."""
        return self.function.__name__.replace("_", "-")

    @property
    def explanation(self) -> str:
        """The function's docstring as one paragraph."""
        return " ".join((inspect.getdoc(self.function) or "").split())


CHECKS: list[Check] = []


def _of_class(function: Callable[[Suite], Iterator[str]]) -> Callable[[Suite], Iterator[str]]:
    CHECKS.append(Check(function, per_model=False))
    return function


def _per_model(function: Callable[[Bench], Iterator[str]]) -> Callable[[Bench], Iterator[str]]:
    CHECKS.append(Check(function, per_model=True))
    return function


def check_editor(
    cls: type[Editor[Any]],
    *,
    name: str | None = None,
    overrides: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> list[CheckResult]:
    """Run every check on an editing method.

    Args:
        cls: the method.
        name: under which it is registered; None looks the class up among the registered ones.
        overrides: hyper-parameters, as text, where the generic ones do not suit a tiny random model.
        reporter: hears which check is running.

    Returns:
        One result per check, in the order of :data:`CHECKS`. A check that crashes has failed; the others still run.

    Raises:
        KnbenchError: an override names no field or has the wrong type.
    """
    reporter = reporter or Reporter()
    suite = Suite(cls, name, overrides or {})
    reporter.begin(len(CHECKS))
    results = []
    try:
        with _own_cache():
            for check in CHECKS:
                reporter.doing(check.name)
                results.append(_run(check, suite))
                reporter.advance()
    finally:
        suite.slate.wipe()
    return results


@contextmanager
def _own_cache() -> Iterator[None]:
    """Give methods that keep statistics on disk an empty cache folder, gone afterwards."""
    before = os.environ.get("KNBENCH_CACHE")
    with tempfile.TemporaryDirectory(prefix="knbench-check-") as folder:
        os.environ["KNBENCH_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["KNBENCH_CACHE"]
            else:
                os.environ["KNBENCH_CACHE"] = before


def _run(check: Check, suite: Suite) -> CheckResult:
    """Run one check; per model, the complaints say on which."""
    if not check.per_model:
        found = _listen(check.function, suite, suite.cls)
    else:
        usable = [bench for bench in suite.benches if bench.setup_error is None]
        heard = {bench.kind: _listen(check.function, bench, suite.cls) for bench in usable}
        found = [type(line)(f"{kind}: {line}") for kind, lines in heard.items() for line in lines]
        if not usable:
            found = ["not checked: no model could be edited; see both-layouts"]
    wrong = [line for line in found if not isinstance(line, Note)]
    return CheckResult(check.name, not wrong, "; ".join(wrong or found), check.explanation)


def _listen(function: Callable[[Any], Iterator[str]], argument: object, cls: type[Editor[Any]]) -> list[str]:
    """Collect what a check yields; a crash is the last complaint."""
    found: list[str] = []
    try:
        with _process_state_kept():
            for line in function(argument):
                found.append(line)
    except (Exception, SystemExit) as error:
        found.append(_crash(error, cls))
    return found


def _crash(error: BaseException, cls: type[Editor[Any]]) -> str:
    """Tell an exception in one line, with the place in the author's own file where there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    home = getattr(sys.modules.get(cls.__module__), "__file__", None)
    place = next((f for f in reversed(frames) if f.filename == home), frames[-1] if frames else None)
    where = f" ({Path(place.filename).name}, line {place.lineno})" if place else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Take back what a check or an editor changes in the process: random generators and torch's modes."""
    plain, of_numpy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_num_threads(1)  # several threads only wait for each other over such small matrices
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(of_numpy)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


# --- what the checks work with ---------------------------------------------------------------------------------------


@cache
def _pristine(kind: UntrainedKind, seed: int) -> LanguageModel:
    """Return a model that is only ever copied, which is quicker than to make it anew."""
    return untrained(kind, seed)


class Suite:
    """A class under test, with a :class:`Bench` for each kind of model that it claims to edit."""

    def __init__(self, cls: type[Editor[Any]], name: str | None, overrides: Mapping[str, str]) -> None:
        if overrides:
            parse_overrides(cls, overrides)
        self.cls = cls
        self.name = name
        self.overrides = overrides
        self.slate = GlobalState(cls)
        kinds = LAYOUTS if getattr(cls, "causal_only", False) else (*LAYOUTS, "bert")
        self.benches = [Bench(cls, kind, self.slate, overrides) for kind in kinds]


class Bench:
    """An editing method on one kind of tiny model, used as the runner uses it."""

    def __init__(
        self, cls: type[Editor[Any]], kind: UntrainedKind, slate: GlobalState, overrides: Mapping[str, str]
    ) -> None:
        self.cls = cls
        self.overrides = overrides
        self.kind = kind
        self.slate = slate
        self.outside = 0
        """State of the generators that the runner does not seed, Python's and NumPy's."""

    def model(self, seed: int = 0) -> LanguageModel:
        """Return a fresh model; the same seed gives the same weights."""
        whole = _pristine(self.kind, seed)
        model, tokenizer = copy.deepcopy((whole.model, whole.tokenizer))
        return LanguageModel(model, tokenizer, whole.family, name=whole.name)

    def editor(self, lm: LanguageModel) -> Editor[Any]:
        """Return a fresh editor, configured for a model with few steps and prepared."""
        editor = self.unprepared(lm)
        self.prepare(editor, lm)
        return editor

    def unprepared(self, lm: LanguageModel) -> Editor[Any]:
        """Return a fresh editor with its generic hyper-parameters and those of the user."""
        editor, _ = build_editor(self.cls, lm, self.overrides)
        steps = getattr(editor.config, "steps", None)
        if isinstance(steps, int) and steps > STEPS and "steps" not in self.overrides:
            with suppress(KnbenchError):  # a method may need more of them
                editor, _ = build_editor(self.cls, lm, {**self.overrides, "steps": str(STEPS)})
        return editor

    def prepare(self, editor: Editor[Any], lm: LanguageModel) -> Mapping[str, Any]:
        """Prepare an editor under the seed that the runner would set."""
        with self._seeded(editor, "prepare"):
            return editor.prepare(lm, Reporter())

    def edit(self, editor: Editor[Any], lm: LanguageModel, *requests: EditRequest, case: str = "case") -> Edit:
        """Compute an edit under the seed that the runner would set for a case."""
        with self._seeded(editor, case):
            return editor.edit(lm, list(requests))

    def edit_each(self, editor: Editor[Any], lm: LanguageModel, *requests: EditRequest) -> list[Edit]:
        """Compute independent edits at once, under the seed of :meth:`edit`."""
        with self._seeded(editor, "case"):
            return list(editor.edit_each(lm, list(requests)))

    @contextmanager
    def _seeded(self, editor: Editor[Any], what: str) -> Iterator[None]:
        random.seed(self.outside)
        np.random.seed(self.outside)
        with seeded(derived_seed(0, editor.name, what)):
            yield

    @property
    def setup_error(self) -> str | None:
        """Why no edit of this kind of model comes about at all, or None."""
        return self._first_edit[0]

    @property
    def state_left_changed(self) -> frozenset[str]:
        """What an ordinary edit leaves changed: a matter of leaves-the-model-alone, and of no other check."""
        return self._first_edit[1]

    @cached_property
    def _first_edit(self) -> tuple[str | None, frozenset[str]]:
        try:
            with _process_state_kept():
                lm = self.model()
                before = Snapshot(lm)
                edit: object = self.edit(self.editor(lm), lm, REQUEST)
                state_left_changed = frozenset(before.changed(Snapshot(lm)))
        except (Exception, SystemExit) as error:
            return _crash(error, self.cls), frozenset()
        return None if isinstance(
            edit, Edit
        ) else f"edit() returned {type(edit).__name__}, not Edit", state_left_changed


class Snapshot:
    """Everything about a model that an editor must leave as it was, by a name that its author understands."""

    def __init__(self, lm: LanguageModel) -> None:
        model: nn.Module = lm.model
        self.facts: dict[str, Any] = {
            "the model object": id(model),
            "lm.prompt_prefix": lm.prompt_prefix,
            "the tokenizer's padding side": (lm.tokenizer.padding_side, lm.tokenizer.truncation_side),
            "the tokenizer's vocabulary": (len(lm.tokenizer), dict(lm.tokenizer.special_tokens_map)),
            "model.config": _json_digest(lm.model.config.to_dict()),
            "torch's gradient mode": torch.is_grad_enabled(),
            "torch's default dtype": torch.get_default_dtype(),
        }
        if getattr(model, "generation_config", None) is not None:
            self.facts["model.generation_config"] = _json_digest(lm.model.generation_config.to_dict())
        self._kept: list[Any] = [model]  # alive, so that no other object gets its id
        for name, module in model.named_modules():
            where = name or "the model"
            hooks = {key: tuple(value) for key, value in vars(module).items() if key.endswith("_hooks")}
            self.facts[f"type of {where}"] = type(module)
            self.facts[f"training mode of {where}"] = module.training
            self.facts[f"forward of {where}"] = id(vars(module).get("forward"))
            self.facts[f"hooks of {where}"] = hooks
            self._kept += [module, vars(module).get("forward")]
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.facts[f"requires_grad of {name}"] = parameter.requires_grad
            self.facts[f"grad of {name}"] = parameter.grad is not None
            self.facts[f"identity of {name}"] = id(parameter)
            self._kept.append(parameter)
        self.facts.update({f"values of {name}": value for name, value in values(lm).items()})

    def changed(self, now: Snapshot) -> list[str]:
        """Return the names of what differs."""
        return [key for key in {**self.facts, **now.facts} if self.facts.get(key) != now.facts.get(key)]


def values(lm: LanguageModel) -> dict[str, str]:
    """Return a hash of every parameter and buffer, by name; tied ones occur under each of their names."""
    model: nn.Module = lm.model
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: _tensor_digest(tensor) for name, tensor in tensors}


def _tensor_digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode() + flat.numpy().tobytes()).hexdigest()


def _json_digest(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _listed(names: Sequence[str], at_most: int = 3) -> str:
    """Join names, so that a line stays readable when everything has changed.

    >>> _listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


class GlobalState:
    """What a class and its modules hold in their variables now, to be put back: nothing edited in this process yet.

    Covers class attributes, module globals, and the dicts, lists and sets in them, of every class between the method
    and :class:`Editor`. What a method stores elsewhere is not seen.
    """

    _CONTAINERS = (dict, OrderedDict, defaultdict, WeakKeyDictionary, WeakValueDictionary, list, set)

    def __init__(self, cls: type[Editor[Any]]) -> None:
        owners: list[Any] = [c for c in cls.__mro__ if issubclass(c, Editor) and c is not Editor]
        modules = {c.__module__: sys.modules[c.__module__] for c in owners if c.__module__ in sys.modules}
        self._names = [(space, self._of(space)) for space in [*owners, *modules.values()]]
        found = [value for _, names in self._names for value in names.values()]
        self._contents = [(value, copy.copy(value)) for value in found if type(value) in self._CONTAINERS]

    @staticmethod
    def _of(space: Any) -> dict[str, Any]:
        return {k: v for k, v in vars(space).items() if not k.startswith("__") and k != "_abc_impl"}

    def wipe(self) -> None:
        """Put everything back."""
        for space, names in self._names:
            for name, value in self._of(space).items():
                if name in names and value is not names[name]:
                    setattr(space, name, names[name])
                elif name not in names and not isinstance(value, ModuleType):
                    delattr(space, name)
        for value, was in self._contents:
            if isinstance(value, list):
                value[:] = was
            else:
                value.clear()
                value.update(was)


@contextmanager
def _values_kept(lm: LanguageModel) -> Iterator[None]:
    """Put the weights back that an editor changes in place, where that is not what the check is about."""
    tensors = [*lm.model.parameters(), *lm.model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, was in zip(tensors, before, strict=True):
                tensor.copy_(was)


def _read(lm: LanguageModel) -> Tensor:
    """Return the model's logits on two texts, as a prober would ask for them."""
    texts = [lm.encode(lm.prompt_prefix + request.text).ids for request in (REQUEST, OTHER)]
    batch = lm.pad(texts)
    with torch.no_grad():
        logits: Tensor = lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
    return logits


def _fingerprint(edit: Edit, lm: LanguageModel) -> dict[str, Any]:
    """Return what identifies an edit bit for bit; output functions by what they do to the model.

    Diagnostics are left out: they may hold times.
    """
    found: dict[str, Any] = {f"weights of {name}": _tensor_digest(new) for name, new in edit.weights.items()}
    found["prefix"] = edit.prefix
    found["names of outputs"] = sorted(edit.outputs)
    if edit.outputs and not any(_misfits(edit, lm)):
        with Edit(outputs=edit.outputs).applied(lm):
            found["effect of outputs"] = _tensor_digest(_read(lm))
    return found


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return _listed([key for key in {**one, **other} if one.get(key) != other.get(key)])


def _misfits(edit: Edit, lm: LanguageModel) -> Iterator[str]:
    """Yield why an edit cannot be applied to a model."""
    weights, prefix = cast("Mapping[str, Any]", edit.weights), cast(object, edit.prefix)  # what came, not what is typed
    for name, new in weights.items():
        try:
            parameter = lm.parameter(name)
        except KnbenchError:
            yield f"weights names '{name}', which is no parameter of the model"
            continue
        if not isinstance(new, Tensor):
            yield f"weights of '{name}' is {type(new).__name__}, not a tensor"
        elif new.shape != parameter.shape:
            yield f"weights of '{name}' has shape {tuple(new.shape)}, the parameter {tuple(parameter.shape)}"
        elif new.dtype != parameter.dtype:
            yield f"weights of '{name}' is {new.dtype}, the parameter {parameter.dtype}"
        elif not bool(new.isfinite().all()):
            yield f"weights of '{name}' holds values that are not finite"
    for name in edit.outputs:
        try:
            lm.model.get_submodule(name)
        except AttributeError:
            yield f"outputs names '{name}', which is no module of the model"
    if not isinstance(prefix, str):
        yield f"prefix is {type(prefix).__name__}, not text"


# --- the checks ------------------------------------------------------------------------------------------------------


@_of_class
def declared(suite: Suite) -> Iterator[str]:
    """A method names itself as its entry point does, in letters, digits, '-' and '_', and has a summary. Its Config is
    a frozen dataclass whose fields have defaults or values from generic(), and whose values JSON can hold. The name
    becomes a folder and a word of the command line; the config goes into every result, so it must not change later.
    """
    cls = suite.cls
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        yield f"name is {name!r}; it must be of letters, digits, '-' and '_'"
    registered = suite.name or next((n for n, c in _registered_classes(cls) if c is cls), name)
    if registered != name:
        yield f"name is {name!r}, but the entry point is called '{registered}'"
    summary = getattr(cls, "summary", None)
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary.strip():
        yield f"summary is {summary!r}; it must be one line for people"
    if not isinstance(cls.joint_batch_size, int) or cls.joint_batch_size < 1:
        yield f"together is {cls.joint_batch_size!r}; it must be a whole number from 1 on"
    config = getattr(cls, "Config", None)
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
        yield "Config is no dataclass"
        return
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield "Config is not frozen; write @dataclass(frozen=True)"
    lm = untrained(LAYOUTS[0])
    generic = cls.generic(lm)
    fields = dataclasses.fields(config)
    missing = [
        f.name
        for f in fields
        if f.init and f.default is f.default_factory is dataclasses.MISSING and f.name not in generic
    ]
    if missing:
        yield f"neither a default nor generic() gives {', '.join(missing)}"
    for values_, source in [(generic, "generic()"), *((p.values, f"published '{p.source}'") for p in cls.published)]:
        unknown = sorted(set(values_) - {f.name for f in fields})
        if unknown:
            yield f"{source} sets {', '.join(unknown)}, which Config does not have"
            return
    if missing:
        return
    editor, source = build_editor(cls, lm, suite.overrides)
    try:
        card = describe_editor(editor, source, {})["config"]
        if json.loads(json.dumps(card, allow_nan=False)) != card:
            yield "the config's values come back from JSON as others"
    except (TypeError, ValueError) as error:
        yield f"the config's values cannot be written as JSON: {error}"


def _registered_classes(cls: type[Editor[Any]]) -> Iterator[tuple[str, object]]:
    """Yield registered names with their classes, of the module that a class comes from."""
    for name, point in registry.registered(registry.EDITORS).items():
        if point.value.partition(":")[0] == cls.__module__:
            yield name, registry.load(point)


@_of_class
def both_layouts(suite: Suite) -> Iterator[str]:
    """edit() returns an Edit of a GPT-2, whose Conv1D stores W as (m, d), and of a Llama, whose Linear stores it as
    (d, m). Ask lm.as_stored and lm.mlp_weight_name, never shapes or module names, and a method edits every family.
    The checks below run on the models that can be edited.
    """
    for bench in suite.benches:
        if bench.kind in LAYOUTS and bench.setup_error:
            yield f"{bench.kind}: {bench.setup_error}"


@_of_class
def masked_models(suite: Suite) -> Iterator[str]:
    """A method edits masked models, such as BERT, or says causal_only = True. It is then refused there in one clear
    line, in place of a crash in the middle of a run.
    """
    for bench in suite.benches:
        if bench.kind not in LAYOUTS and bench.setup_error:
            yield f"{bench.kind}: {bench.setup_error}; set causal_only = True if the method cannot edit masked models"
    if suite.cls.causal_only:
        try:
            build_editor(suite.cls, untrained("bert"))
        except KnbenchError as error:
            if f"'{suite.cls.name}'" not in str(error):
                yield f"the refusal of a masked model does not name the editor: {error}"
        else:
            yield "causal_only is true, yet a masked model was not refused"


@_per_model
def leaves_the_model_alone(bench: Bench) -> Iterator[str]:
    """After prepare() and after edit() the model is as before: every weight bit for bit, hooks, forward methods,
    training mode, requires_grad, .grad, the tree of modules, prompt prefix, tokenizer settings and torch's gradient
    mode. All editors share one loaded model: what one leaves behind falsifies the next. Return the change as an Edit;
    set hooks and trial values in a 'with' block that takes them back.
    """
    lm = bench.model()
    editor = bench.unprepared(lm)
    before = Snapshot(lm)
    bench.prepare(editor, lm)
    prepared = Snapshot(lm)
    if found := before.changed(prepared):
        yield f"prepare() left changed: {_listed(found)}"
    bench.edit(editor, lm, REQUEST)
    if found := prepared.changed(Snapshot(lm)):
        yield f"edit() left changed: {_listed(found)}"


@_per_model
def restores_exactly(bench: Bench) -> Iterator[str]:
    """Once an edit was applied and taken back, also by an exception, the weights are bit for bit those of before
    edit(). This rejects a method that changes the model in place and forgets to restore it: every later case would be
    measured on a model that is already edited.
    """
    lm = bench.model()
    editor = bench.editor(lm)
    weights = values(lm)
    edit = bench.edit(editor, lm, REQUEST)
    computed = Snapshot(lm)
    fits = not any(_misfits(edit, lm))  # else it cannot be applied, which another check tells
    for raised in (False, True):
        if fits:
            with suppress(Injected), edit.applied(lm):
                _read(lm)
                if raised:
                    raise Injected
        how = "an exception inside edit.applied" if raised else "edit.applied"
        now = values(lm)
        found = [f"values of {name}" for name in now if now[name] != weights.get(name)]
        found += [name for name in computed.changed(Snapshot(lm)) if name not in found]
        if found:
            yield f"not as before edit() after {how}: {_listed(found)}"
            return


@_per_model
def survives_an_exception(bench: Bench) -> Iterator[str]:
    """An exception in the middle of edit(), such as memory that runs out, leaves the model as it was. The runner
    records that case as failed and goes on with the same model. Undo with 'with' or 'finally', not at the end.
    """
    calls, _ = _interrupt(bench, None)
    for call in sorted({1, 2, calls}):
        if call <= calls:
            _, found = _interrupt(bench, call)
            found = [name for name in found if name not in bench.state_left_changed]
            if found:
                yield f"an exception in forward call {call} of {calls} left changed: {_listed(found)}"


def _interrupt(bench: Bench, call: int | None) -> tuple[int, list[str]]:
    """Edit, raising inside a forward call; return how many calls came about and what was left changed.

    The hook sits on the first block, which also those reach that stop early or skip the blocks.
    """
    lm = bench.model()
    editor = bench.editor(lm)
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Injected("raised by the conformance suite")

    handle = lm.block(0).register_forward_hook(hook)
    before = Snapshot(lm)
    try:
        bench.edit(editor, lm, REQUEST)
    except Exception:
        if call is None or calls < call:
            raise
    changed = before.changed(Snapshot(lm))
    handle.remove()
    return calls, changed


@_per_model
def declared_parameters_only(bench: Bench) -> Iterator[str]:
    """An edit's tensors have the name, shape and dtype of their parameters and are finite, and while it is applied no
    parameter changes but those that Edit.weights names (with those tied to them). The result reports the named ones
    as what the edit touched.
    """
    lm = bench.model()
    edit = bench.edit(bench.editor(lm), lm, REQUEST)
    found = list(_misfits(edit, lm))
    yield from found
    if found:
        return
    named = {id(lm.parameter(name)) for name in edit.weights}
    before = values(lm)
    with edit.applied(lm):
        logits = _read(lm)
        now = values(lm)
        parameters = dict(lm.model.named_parameters(remove_duplicate=False))
    undeclared = [n for n in now if now[n] != before.get(n) and id(parameters.get(n)) not in named]
    if undeclared:
        yield f"while applied, these change too, which Edit.weights does not name: {_listed(undeclared)}"
    if edit.outputs and not bool(logits.isfinite().all()):
        yield "while applied, the model's logits are not finite"


@_per_model
def plain_json(bench: Bench) -> Iterator[str]:
    """Edit.diagnostics and what prepare() returns are JSON: numbers, text, lists and mappings, without NaN. Both are
    written into the results, and one tensor among them would stop the run. Use float(x) and x.tolist().
    """
    lm = bench.model()
    editor = bench.unprepared(lm)
    prepared = bench.prepare(editor, lm)
    edit = bench.edit(editor, lm, REQUEST)
    written: dict[str, Callable[[], object]] = {
        "what prepare() returns": lambda: describe_editor(editor, "", prepared)["prepared"],
        "Edit.diagnostics": lambda: dict(edit.diagnostics),
    }
    for what, value in written.items():
        try:
            json.dumps(value(), allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"{what} cannot be written as JSON: {error}"


@_per_model
def own_tensors(bench: Bench) -> Iterator[str]:
    """The tensors of an edit are detached and share memory neither with the model nor with the next edit. Otherwise
    writing to one changes the other, and a graph that hangs on them fills the memory. Use .detach().clone().
    """
    lm = bench.model()
    editor = bench.editor(lm)
    edit = bench.edit(editor, lm, REQUEST)
    weights = {name: new for name, new in edit.weights.items() if isinstance(new, Tensor)}
    model = {t.untyped_storage().data_ptr() for t in (*lm.model.parameters(), *lm.model.buffers())}
    for name, new in weights.items():
        if new.requires_grad:
            yield f"weights of '{name}' requires a gradient"
        if new.untyped_storage().data_ptr() in model:
            yield f"weights of '{name}' is the model's own memory"
            return
    before = {name: _tensor_digest(new) for name, new in weights.items()}
    bench.edit(editor, lm, OTHER)
    for name, new in weights.items():
        if _tensor_digest(new) != before[name]:
            yield f"weights of '{name}' was overwritten by the editor's next edit"


@_per_model
def half_precision(bench: Bench) -> Iterator[str]:
    """A model in bfloat16 can be edited, and the edit is in bfloat16 too. Large models are run so; compute in float32
    where precision matters, and return .to(weight.dtype).
    """
    full = bench.model()
    if any(_misfits(bench.edit(bench.editor(full), full, REQUEST), full)):
        yield Note("not looked at: the edit does not fit in float32 either")
        return
    whole = bench.model()
    lm = LanguageModel(whole.model.to(torch.bfloat16), whole.tokenizer, whole.family, name=whole.name)
    yield from _misfits(bench.edit(bench.editor(lm), lm, REQUEST), lm)


@_per_model
def deterministic(bench: Bench) -> Iterator[str]:
    """Two fresh editors under one seed give the same edit bit for bit, whatever was drawn before, and so does an
    editor that edited something else in between. The runner seeds torch for each case; draw from torch's generator or
    from self.seed, not from Python's or NumPy's. A run that was stopped and continued must give the same numbers.
    """
    found = []
    for outside in (1, 2):
        bench.outside = outside
        torch.manual_seed(outside)
        lm = bench.model()
        editor = bench.editor(lm)
        with _values_kept(lm):
            edit = bench.edit(editor, lm, REQUEST)
            found.append(_fingerprint(edit, lm))
    if found[0] != found[1]:
        yield f"two fresh editors under one seed differ in {_differing(*found)}"
        return
    with _values_kept(lm):
        bench.edit(editor, lm, OTHER, case="other")
    with _values_kept(lm):
        again = _fingerprint(bench.edit(editor, lm, REQUEST), lm)
    if again != found[1]:
        yield f"after another edit, the same request gives another result in {_differing(found[1], again)}"


@_per_model
def no_state_between_models(bench: Bench) -> Iterator[str]:
    """An editor that edited one model edits the next as a fresh one would. What is kept between edits must be kept by
    model, best in a WeakKeyDictionary of LanguageModel: layer numbers and names are the same in many models.
    """
    bench.slate.wipe()
    alone = bench.model(seed=1)
    fresh = _fingerprint(bench.edit(bench.editor(alone), alone, REQUEST), alone)
    bench.slate.wipe()
    first, second = bench.model(seed=0), bench.model(seed=1)
    editor = bench.editor(first)
    bench.edit(editor, first, REQUEST)
    bench.prepare(editor, second)
    used = _fingerprint(bench.edit(editor, second, REQUEST), second)
    if used != fresh:
        yield f"after another model was edited, the edit differs in {_differing(fresh, used)}"


@_per_model
def batch_of_one(bench: Bench) -> Iterator[str]:
    """edit_each() of one request gives exactly the edit of edit(); of two, two edits in the order of the requests,
    each as it would be alone. Working through requests together saves time and must not change what is measured.
    """
    single = {}
    for request in (REQUEST, OTHER):
        lm = bench.model()
        single[request] = bench.edit(bench.editor(lm), lm, request)
    lm = bench.model()
    one = bench.edit_each(bench.editor(lm), lm, REQUEST)
    if len(one) != 1:
        yield f"edit_each() of one request gives {len(one)} edits"
    elif (alone := _fingerprint(single[REQUEST], lm)) != (now := _fingerprint(one[0], lm)):
        yield f"edit_each() of one request differs from edit() in {_differing(alone, now)}"
    lm = bench.model()
    editor = bench.editor(lm)
    with _values_kept(lm):
        two = bench.edit_each(editor, lm, REQUEST, OTHER)
    if len(two) != 2:
        yield f"edit_each() of two requests gives {len(two)} edits"
        return
    if why := _incomparable(bench, single):
        yield Note(f"edits of two requests are not compared: {why}")
        return
    lm = bench.model()
    for number, (edit, request, rest) in enumerate(zip(two, (REQUEST, OTHER), (OTHER, REQUEST), strict=True), 1):
        own, foreign = _distance(edit, single[request], lm), _distance(edit, single[rest], lm)
        if own > SAME and foreign < own:
            yield f"edit {number} of two is that of the other request"
        elif own > SAME:
            yield f"edit {number} of two is not as it would be alone (relative distance {own:.1e})"


def _incomparable(bench: Bench, single: Mapping[EditRequest, Edit]) -> str | None:
    """Tell why an edit from a batch may differ from the single one though nothing is wrong with the batch."""
    lm = bench.model()
    if any(any(_misfits(edit, lm)) for edit in single.values()):
        return "they do not fit the model"
    if bench.state_left_changed:
        return "edit() leaves the model changed"
    bench.outside = 1
    again = bench.edit(bench.editor(lm), lm, REQUEST, case="another")
    bench.outside = 0
    return "the method draws random numbers" if _fingerprint(again, lm) != _fingerprint(single[REQUEST], lm) else None


def _distance(edit: Edit, alone: Edit, lm: LanguageModel) -> float:
    """Return the length of the difference of two edits' changes, relative to that of the second; inf for other parts.

    The change is compared, not the weights: a small update hides in them.
    """
    if set(edit.weights) != set(alone.weights) or set(edit.outputs) != set(alone.outputs):
        return float("inf")
    if edit.prefix != alone.prefix:
        return float("inf")
    pairs = [(new, alone.weights[name], lm.parameter(name).detach()) for name, new in edit.weights.items()]
    if edit.outputs:
        plain, logits = _read(lm), []
        for one in (edit, alone):
            with Edit(outputs=one.outputs).applied(lm):
                logits.append(_read(lm))
        pairs.append((logits[0], logits[1], plain))
    furthest = 0.0
    for new, old, start in pairs:
        if new.shape != old.shape:
            return float("inf")
        gap, length = (new.detach() - old.detach()).norm(), (old.detach() - start).norm()
        rounding = start.norm() * torch.finfo(start.dtype).eps
        furthest = max(furthest, float(gap / (length + rounding)) if gap else 0.0)
    return furthest


@_per_model
def leaves_the_requests_alone(bench: Bench) -> Iterator[str]:
    """edit() and edit_each() leave the list of requests as it is. The runner measures and records them afterwards, and
    offers them to the next editor.
    """
    for each in (False, True):
        lm = bench.model()
        editor = bench.editor(lm)
        requests = [REQUEST]
        copied = copy.deepcopy(requests)
        with seeded(0):
            editor.edit_each(lm, requests) if each else editor.edit(lm, requests)
        if requests != copied:
            yield f"{'edit_each' if each else 'edit'}() changed the requests"
            return


@_per_model
def refuses_with_reason(bench: Bench) -> Iterator[str]:
    """A request that cannot be edited, because no token covers its subject or its target, and several requests at
    once are edited or refused by ValueError, which says why. The model stays as it was and the editor goes on working.
    lm.subject_span, lm.split and lm.questions raise it by themselves.
    """
    soft_hyphen = "\u00ad"
    cases = {
        "a subject without tokens": [dataclasses.replace(REQUEST, subject=soft_hyphen)],
        "a target without tokens": [dataclasses.replace(REQUEST, target_new=soft_hyphen)],
        "two requests at once": [REQUEST, OTHER],
    }
    lm = bench.model()
    # Many real tokenizers drop such characters; the toy ones keep all.
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(soft_hyphen, "")
    editor = bench.editor(lm)
    for what, requests in cases.items():
        before = Snapshot(lm)
        try:
            edit: object = bench.edit(editor, lm, *requests)
            if not isinstance(edit, Edit):
                yield f"{what} gives {type(edit).__name__}, not an Edit or ValueError"
        except ValueError as error:
            if not str(error).strip():
                yield f"{what} is refused without a reason"
        except Exception as error:
            yield f"{what} gives {_crash(error, bench.cls)}, not an Edit or ValueError"
        found = [name for name in before.changed(Snapshot(lm)) if name not in bench.state_left_changed]
        if found:
            yield f"{what} left changed: {_listed(found)}"
            return
    bench.edit(editor, lm, REQUEST)
