"""``evaluate``: run editors over tasks, from Python and from the command line."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import KnbenchError, unknown_name
from ..core.progress import Reporter
from ..core.schema import Task
from ..models.devices import resolve_batch_size, resolve_device
from .results import Results
from .run_config import RunConfig

if TYPE_CHECKING:
    from ..editing import Editor
    from ..models.language_model import LanguageModel


def evaluate(
    model: Any,
    editors: str | type[Editor[Any]] | Iterable[str | type[Editor[Any]]] = ("none", "rome"),
    tasks: str | Task | Iterable[str | Task] = (),
    *,
    tokenizer: Any = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Results:
    """Run editors over tasks: measure, edit, measure again, restore.

    Args:
        model: name, folder or hub id; a :class:`LanguageModel`; or a loaded model of transformers with ``tokenizer``.
        editors: names or classes of editors, or ``"all"``.
        tasks: names or objects of tasks, or ``"all"``.
        tokenizer: the tokenizer of a model of transformers.
        reporter: receives progress; None shows nothing.
        **settings: fields of :class:`RunConfig`, which are the flags of ``knbench run``: ``limit``, ``known_only``,
            ``sequential``, ``editor_args``, ``output``, ... Without ``output``, the files of the run are deleted with the
            results.

    Returns:
        The results, one per editor and task.

    Raises:
        KnbenchError: a name or a setting is wrong, the model cannot be used, or ``output`` holds another run.

    Examples:
        >>> from knbench.benchmark import evaluate
        >>> results = evaluate("toy-gpt2", ["none", "in-context"], ["capital"], limit=2)
        >>> [(row["editor"], row["task"], row["cases"]) for row in results.summary()]
        [('none', 'capital', 2), ('in-context', 'capital', 2)]
        >>> rows = results.records()
        >>> rows[0]["criterion"], rows[0]["expect"]
        ('reliability', 'new')
        >>> results.to_frame("scores").shape[0] == len(results.scores())
        True
    """
    from .objects import as_editors, as_language_model, as_tasks

    for name in ("model", "editors", "tasks", "config"):
        if name in settings:
            raise unknown_name("setting", name, RunConfig().to_mapping())
    config = RunConfig.from_mapping(settings, "the settings")
    classes = as_editors(editors)
    chosen = as_tasks(tasks, config.include_path, dict(config.data))
    output, temporary = config.output, None
    if output is None:
        temporary = Path(tempfile.mkdtemp(prefix="knbench-"))
    folder = temporary or Path(output or "")
    if isinstance(model, str | Path):
        load: Any = partial(_load, str(model), config)
    else:
        if config.executor not in ("auto", "serial"):
            raise KnbenchError(
                f"executor '{config.executor}' loads the model in other processes; pass the model's name"
            )
        lm = as_language_model(model, tokenizer, bos=config.bos)
        load, config = _Loaded(lm), _serial(config, str(lm.device))
    results = Results(run_config(config, chosen, classes, load, folder, reporter or Reporter()), temporary)
    return results


def run_config(
    config: RunConfig,
    tasks: Sequence[Task],
    editors: Sequence[type[Editor[Any]]],
    load: Any,
    folder: Path,
    reporter: Reporter,
    *,
    command: str | None = None,
) -> list[Any]:
    """Run editors over tasks as a configuration states, and return the finished runs.

    Args:
        config: the configuration.
        tasks: its tasks.
        editors: classes of its editors.
        load: returns the model on a device. It is sent to the workers.
        folder: folder of the run.
        reporter: receives progress.
        command: the command line, which is noted in the results.

    Raises:
        KnbenchError: a setting is wrong, or the folder holds another run.
    """
    from ..editing import parse_overrides
    from ..running.evaluator import RunSpec
    from ..running.runner import execute
    from ..running.workers.config import ExecutorConfig, open_executor

    device = config.device if config.executor == "ray" else resolve_device(config.device)
    settings = config.settings(resolve_batch_size(config.batch_size, device))
    for cls in editors:
        parse_overrides(cls, settings.editor_args.get(cls.name, {}))
    skip = config.editors == ("all",)
    kind = "serial" if config.executor == "auto" else config.executor
    executor = ExecutorConfig(kind, config.workers, config.address, config.threads, device)
    with open_executor(executor) as start:
        spec = RunSpec(load, editors, tasks, settings, skip_unsupported=skip)
        return execute(start(spec), folder, settings, reporter, command=command, fail_on_error=config.fail_on_error)


def _load(name: str, config: RunConfig, device: str) -> LanguageModel:
    """Load the model of a configuration on a device; a function of the module, because workers receive it."""
    from ..models.loading import load_model

    return load_model(
        name,
        device,
        dtype=config.dtype,
        revision=config.revision,
        bos=config.bos,
        device_map=config.device_map,
    )


class _Loaded:
    """Returns a model that is loaded, whatever the device is."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm

    def __call__(self, device: str) -> LanguageModel:
        del device
        return self._lm


def _serial(config: RunConfig, device: str) -> RunConfig:
    """Return a configuration that runs in this process, on the device of a loaded model."""
    return dataclasses.replace(config, executor="serial", workers=None, device=device)
