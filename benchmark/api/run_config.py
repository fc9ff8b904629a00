"""The configuration of a run: one object behind the command line, a YAML file, a manifest and Python."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..core.documents import Manifest
from ..core.errors import KnbenchError, unknown_name
from ..core.extra_probes import EXTRA_PROBES, ExtraProbes
from ..core.settings import DriftSettings, RunSettings
from ..core.split import SPLITS, SUBSETS, Split, Subset
from ..models.catalogue import DEFAULT_MODEL, catalogue, model_label

KNOWN_BY = ("success", "exact", "generated")
BOS_POLICIES = ("auto", "always", "never")
EXECUTORS = ("auto", "serial", "local", "ray")
AUTO = "auto"

_CHOICES: Mapping[str, Sequence[str]] = {
    "split": SPLITS,
    "subset": SUBSETS,
    "known_by": KNOWN_BY,
    "bos": BOS_POLICIES,
    "executor": EXECUTORS,
}
_LISTS = ("editors", "tasks", "checkpoints", "drift", "probes", "include_path")
_POSITIVE = ("limit", "batch_edits", "sequential", "drift_limit", "workers", "threads")


@dataclass(frozen=True)
class RunConfig:
    """What ``knbench run`` does, under the names of its flags.

    Attributes:
        model: catalogue name, hub id, folder or GGUF file.
        editors: names of editors, or ``all``.
        tasks: names of tasks, or ``all``.
        include_path: folders of task definitions.
        data: source of published data by reader.
        split: cases to run.
        subset: ``lite`` runs a fixed sample.
        limit: maximum number of cases per task.
        known_only: run only cases that the unedited model knows.
        known_by: criterion of ``known_only``.
        seed: seed of all random numbers.
        device: a torch device; ``auto`` selects a GPU if there is one.
        device_map: shards a large model across GPUs.
        dtype: data type of the weights.
        revision: version of a hub model.
        batch_size: sequences per forward pass when probes are measured; ``auto`` follows the device.
        bos: whether to prepend the BOS token.
        editor_args: hyper-parameters by editor and name.
        batch_edits: number of cases whose edits are applied together.
        sequential: number of cases whose edits are applied one after the other.
        checkpoints: numbers of sequential edits after which all cases are measured again.
        drift: tasks on which side effects are measured.
        drift_limit: maximum number of samples per drift task.
        drift_text: held-out text for perplexity.
        fluency_tokens: number of tokens to generate for fluency.
        apply_chat_template: put every prompt into the chat template.
        probes: probes that are added to each case and enter no score: ``distractor``, ``negation``.
        executor: ``auto``, ``serial``, ``local`` or ``ray``.
        workers: number of workers.
        address: address of a Ray cluster.
        threads: CPU threads per worker.
        fail_on_error: stop when more than this share or number of cases failed.
        retry_failed: run failed cases again.
        output: run folder.

    Raises:
        KnbenchError: a value has the wrong type or is not one of the choices.
    """

    model: str = DEFAULT_MODEL
    editors: tuple[str, ...] = ("none", "rome")
    tasks: tuple[str, ...] = ()
    include_path: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    split: Split = "test"
    subset: Subset = "full"
    limit: int | None = None
    known_only: bool = False
    known_by: str = "success"
    seed: int = 0
    device: str = AUTO
    device_map: str | None = None
    dtype: str = "float32"
    revision: str | None = None
    batch_size: int | Literal["auto"] = 32
    bos: Literal["auto", "always", "never"] = "auto"
    editor_args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_edits: int | None = None
    sequential: int | None = None
    checkpoints: tuple[int, ...] | None = None
    drift: tuple[str, ...] = ()
    drift_limit: int = 100
    drift_text: str | None = None
    fluency_tokens: int = 0
    apply_chat_template: bool = False
    probes: tuple[str, ...] = ()
    executor: Literal["auto", "serial", "local", "ray"] = "auto"
    workers: int | None = None
    address: str | None = None
    threads: int | None = None
    fail_on_error: float | None = None
    retry_failed: bool = False
    output: str | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise KnbenchError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if not _fits(value, hints[entry.name]):
                raise KnbenchError(f"{entry.name} is {value!r}; expected {_expected(hints[entry.name])}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KnbenchError(f"{name} is {value}; expected a number above 0")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "the configuration") -> RunConfig:
        """Return the configuration that a mapping states.

        Names are those of the flags, with ``-`` or ``_`` and without leading dashes. Lists may be texts with commas.

        Args:
            values: values by name. Missing ones keep their defaults.
            source: where the values come from, for messages.

        Raises:
            KnbenchError: a name is unknown or a value is unusable.
        """
        known = {entry.name.replace("_", "-"): entry.name for entry in dataclasses.fields(cls)}
        chosen: dict[str, Any] = {}
        for key, value in values.items():
            flag = str(key).lstrip("-").replace("_", "-")
            if flag not in known:
                raise unknown_name(f"name in {source}", str(key), known)
            if value is not None or known[flag] in ("limit", "checkpoints"):
                chosen[known[flag]] = _plain(known[flag], value, source)
        try:
            return cls(**chosen)
        except KnbenchError as error:
            raise KnbenchError(f"{source}: {error}") from None

    @classmethod
    def from_file(cls, path: Path) -> RunConfig:
        """Return the configuration of a YAML file, or of the manifest or the result of a run (``*.json``).

        Raises:
            KnbenchError: the file cannot be read or has unusable values.
        """
        return cls.from_mapping(read_config(path), str(path))

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> RunConfig:
        """Return a configuration that runs a stored result again; see :func:`manifest_values`."""
        return cls.from_mapping(manifest_values(manifest), "the manifest")

    def to_mapping(self) -> dict[str, Any]:
        """Return the values by the names of the flags, as YAML can hold them."""
        values = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = {key: dict(item) if isinstance(item, Mapping) else item for key, item in value.items()}
            values[entry.name.replace("_", "-")] = value
        return values

    def to_yaml(self) -> str:
        """Return the configuration as YAML, in the order of the flags, without flags that have no value."""
        values = {name: value for name, value in self.to_mapping().items() if value not in (None, [], {})}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)

    @property
    def folder(self) -> Path:
        """The run folder: ``output``, or one named after the model."""
        return Path(self.output or Path("runs") / model_label(self.model).replace("/", "--"))

    def settings(self, batch_size: int) -> RunSettings:
        """Return the settings that affect the numbers.

        Args:
            batch_size: the resolved number of rows per batch.

        Raises:
            KnbenchError: two settings contradict each other.
        """
        drift = DriftSettings(self.drift, self.drift_limit, self.drift_text) if self.drift else None
        return RunSettings(
            split=self.split,
            subset=self.subset,
            limit=self.limit,
            seed=self.seed,
            known_only=self.known_only,
            known_by=self.known_by,
            batch_size=batch_size,
            fluency_tokens=self.fluency_tokens,
            apply_chat_template=self.apply_chat_template,
            probes=_extra(self.probes),
            batch_edits=self.batch_edits,
            sequential=self.sequential,
            checkpoints=self.checkpoints,
            drift=drift,
            editor_args={name: as_text(values) for name, values in self.editor_args.items()},
            retry_failed=self.retry_failed,
        )


def _extra(names: Sequence[str]) -> tuple[ExtraProbes, ...]:
    """Return the names of added probes in their fixed order.

    Raises:
        KnbenchError: a name is unknown.
    """
    unknown = next((name for name in names if name not in EXTRA_PROBES), None)
    if unknown is not None:
        raise unknown_name("added probe", unknown, EXTRA_PROBES)
    return tuple(name for name in EXTRA_PROBES if name in names)


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of a configuration file, before they are checked.

    Args:
        path: a YAML file, or the manifest or the result of a run (``*.json``).

    Raises:
        KnbenchError: the file cannot be read or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KnbenchError(f"--config '{path}': {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise KnbenchError(f"--config '{path}': not a text file in UTF-8") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise KnbenchError(f"--config '{path}'{where}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if isinstance(values, Mapping) and {"protocol", "editor", "task"} <= values.keys():
        from ..results.documents import load_manifest, load_result, manifest_of

        manifest = manifest_of(load_result(path)) if "records" in values else load_manifest(path)
        return manifest_values(manifest)
    if not isinstance(values, Mapping):
        raise KnbenchError(f"--config '{path}': expected one line per flag, for example 'tasks: capital'")
    return dict(values)


def manifest_values(manifest: Manifest) -> dict[str, Any]:
    """Return the values of a configuration that runs a stored result again.

    Hyper-parameters that the user did not set follow from the model, as they did in the stored run. A local model, a
    local file of data and a text for perplexity are stored without their folders and have to be added.
    """
    protocol, editor = manifest.protocol, manifest.editor
    listed = re.search(r"; user set (.+)$", editor.config_source)
    names = listed[1].split(", ") if listed else []
    values: dict[str, Any] = {
        "model": manifest.model.name,
        "editors": [editor.name],
        "tasks": [manifest.task.name],
        "split": protocol.split,
        "subset": protocol.subset or "full",
        "limit": protocol.limit,
        "known-only": protocol.known_only,
        "known-by": protocol.known_by or "success",
        "seed": manifest.seed,
        "dtype": manifest.model.dtype,
        "batch-size": protocol.batch_size,
        "bos": protocol.bos,
        "batch-edits": protocol.batch_edits,
        "sequential": protocol.checkpoints[-1] if protocol.checkpoints else None,
        "checkpoints": list(protocol.checkpoints) or None,
        "fluency-tokens": protocol.fluency_tokens,
        "apply-chat-template": protocol.chat_template is not None or None,
        "probes": list(protocol.probes or ()) or None,
    }
    if names:
        values["editor-args"] = {editor.name: {name: editor.config[name] for name in names if name in editor.config}}
    if protocol.drift is not None:
        values |= {"drift": protocol.drift["tasks"], "drift-limit": protocol.drift["limit"]}
    entry = catalogue().get(manifest.model.name)
    if manifest.model.revision and ("/" in manifest.model.name or (entry is not None and "hub" in entry.source)):
        values["revision"] = manifest.model.revision
    return {name: value for name, value in values.items() if value is not None}


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Return hyper-parameters as the command line states them: None as ``none``, lists as ``4|5``.

    >>> as_text({"layer": 7, "layers": (4, 5), "mom2_adjustment": True, "clamp": None})
    {'layer': '7', 'layers': '4|5', 'mom2_adjustment': 'true', 'clamp': 'none'}
    """
    texts = {}
    for name, value in values.items():
        if isinstance(value, list | tuple):
            texts[name] = "|".join(map(str, value))
        else:
            texts[name] = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    return texts


def _plain(name: str, value: Any, source: str) -> Any:
    """Return a value of YAML or Python in the type of its field, where this needs no decision."""
    if name in _LISTS:
        if value is None:
            return None
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        found = [
            item.strip() if isinstance(item, str) else str(item) if isinstance(item, Path) else item for item in items
        ]
        return tuple(dict.fromkeys(item for item in found if item != ""))
    if name == "data" and isinstance(value, list | tuple):
        pairs = [str(item).partition("=") for item in value]
        return {reader.strip(): place.strip() for reader, _, place in pairs}
    if name == "editor_args" and isinstance(value, Mapping):
        wrong = next((key for key, item in value.items() if not isinstance(item, Mapping)), None)
        if wrong is not None:
            raise KnbenchError(
                f"{source}: editor-args of '{wrong}' is not a mapping, for example {wrong}: {{layer: 7}}"
            )
        return {str(key): dict(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has a type. Numbers do not count as truth values, nor the reverse."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        if hint is float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        return value is None if hint is type(None) else type(value) is hint or hint is Any
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(item, arguments[1]) for item in value.values())
    return any(_fits(value, argument) for argument in arguments)


def _expected(hint: Any) -> str:
    """Return a type in words.

    >>> _expected(int | None), _expected(tuple[str, ...]), _expected(bool)
    ('a whole number or nothing', 'a list of texts', 'true or false')
    """
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"a list of {_expected(arguments[0]).removeprefix('a ')}s"
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "names with values"
    return " or ".join(_expected(argument) for argument in arguments)
