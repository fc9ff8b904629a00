"""``evaluate``: run editors over tasks, from Python and from the command line."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import KnbenchError, unknown_name
from ..core.progress import Reporter
from ..core.schema import Task
from ..models.catalogue import check_model_name
from ..models.devices import CPU_BATCH, check_device, resolve_batch_size, resolve_device
from .results import Results
from .run_config import RunConfig

if TYPE_CHECKING:
    from ..editing import Editor
    from ..models.language_model import LanguageModel
    from ..results.runs import Run
    from ..running.shards import Shard


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
            ``sequential``, ``editor_args``, ``output``, ... Without ``output``, the files of the run are deleted with
            the results.

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
        check_model_name(str(model))
        load = loader(str(model), config)
    else:
        if config.executor not in ("auto", "serial"):
            raise KnbenchError(
                f"executor '{config.executor}' loads the model in other processes; pass the model's name"
            )
        lm = as_language_model(model, tokenizer, bos=config.bos)
        load, config = _Loaded(lm), _serial(config, str(lm.device))
    job = Job(config, chosen, lambda: classes, load, folder, skip_unsupported=editors == "all")
    runs, _ = start(job, nullcontext(reporter or Reporter()), editors=len(classes))
    return Results(runs, temporary)


@dataclass(frozen=True)
class Job:
    """A run that is ready to start.

    Attributes:
        config: the configuration.
        tasks: its tasks.
        editors: returns the classes of its editors. It is called while the workers start.
        load: returns the model on a device. It is sent to the workers.
        folder: folder of the run.
        model_bytes: returns the bytes of the weights in memory, or None if they are unknown.
        skip_unsupported: whether to skip editors that do not support the model, instead of an error.
        shard: the part of the run to measure; None for all.
    """

    config: RunConfig
    tasks: Sequence[Task]
    editors: Callable[[], Sequence[type[Editor[Any]]]]
    load: Callable[[str], LanguageModel]
    folder: Path
    model_bytes: Callable[[], int | None] = lambda: None
    skip_unsupported: bool = False
    shard: Shard | None = None


def start(
    job: Job, reporter: AbstractContextManager[Reporter], *, editors: int, command: str | None = None
) -> tuple[list[Run], list[str]]:
    """Run editors over tasks.

    Args:
        job: the run.
        reporter: receives progress.
        editors: number of editors, from which ``executor`` ``auto`` estimates the size of the run.
        command: the command line, which is noted in the results.

    Returns:
        The finished runs, and the names of the editors that were asked for.

    Raises:
        KnbenchError: a setting is wrong, a device is missing, or the folder holds another run.
    """
    from ..running.executors import ExecutorConfig, Machine, choose, open_executor, size_of

    config = job.config
    device = config.device if config.executor == "ray" else resolve_device(config.device)
    executor = ExecutorConfig(config.executor, config.workers, config.address, config.threads, device)
    if config.executor == "auto":
        size = size_of(job.tasks, editors, config.settings(CPU_BATCH))
        executor = choose(executor, *size, job.model_bytes(), Machine.here())
    # Workers start while this process imports torch.
    with open_executor(executor) as start_executor:
        from ..editing import parse_overrides
        from ..running.evaluator import RunSpec
        from ..running.runner import execute

        classes = job.editors()
        settings = config.settings(resolve_batch_size(config.batch_size, device))
        for cls in classes:
            parse_overrides(cls, settings.editor_args.get(cls.name, {}))
        if executor.kind != "ray":  # the machines of a cluster can have other devices
            check_device(device)
        spec = RunSpec(job.load, classes, job.tasks, settings, skip_unsupported=job.skip_unsupported)
        with reporter as shown:
            runs = execute(
                start_executor(spec),
                job.folder,
                settings,
                shown,
                command=command,
                fail_on_error=config.fail_on_error,
                shard=job.shard,
            )
    return runs, [cls.name for cls in classes]


def loader(name: str, config: RunConfig) -> Callable[[str], LanguageModel]:
    """Return the function that loads the model of a configuration on a device. It can be sent to workers."""
    return partial(_load, name, config.dtype, config.revision, config.bos, config.device_map)


def _load(name: str, dtype: str, revision: str | None, bos: Any, device_map: str | None, device: str) -> LanguageModel:
    from ..models.loading import load_model

    return load_model(name, resolve_device(device), dtype=dtype, revision=revision, bos=bos, device_map=device_map)


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
