"""``knbench run``: run editors over tasks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..api.evaluation import Job, loader, start
from ..api.run_config import RunConfig
from ..core.errors import InterruptedRun, KnbenchError
from ..core.files import json_text
from ..core.records import to_json
from ..core.split import LITE_CASES, SPLITS, SUBSETS, Split, Subset
from ..models.catalogue import DEFAULT_MODEL, check_model_name
from ..models.devices import CPU_BATCH, DEVICE_HELP
from ..models.loading import DTYPES, stored_model_bytes
from ..running.executors import KINDS, Kind
from ..running.shards import Shard
from ..scoring.protocols import unstored_measures
from .board_run import BOARD_OPTION, run_on_board
from .options import (
    ALL_COLUMNS_OPTION,
    CHAT_OPTION,
    DATA_OPTION,
    INCLUDE_OPTION,
    JSON_FLAG,
    PROTOCOL_OPTION,
    QUIET_OPTION,
    TASKS_HELP,
    check_installed,
    chosen_tasks,
    command_line,
    known_editors,
    names_of,
    read_data_sources,
    read_editor_args,
)
from .progress import open_reporter
from .run_file import CONFIG_OPTION, PRINT_CONFIG_OPTION, BatchSize

if TYPE_CHECKING:
    from ..editing import Editor

EXAMPLES = """
\b
Examples:
  knbench run --editors rome --tasks capital --limit 3
  knbench run --editors all --tasks all --known-only --output runs/all
  knbench run --model ./my-model --editors rome --editor-args rome.layer=7 --tasks capital
  knbench run --editors memit --tasks capital --batch-edits 10 --known-only
  knbench run --editors memit --board knbench-lite
  knbench run --editors rome,memit --tasks capital --sequential 100 --drift perplexity,anaphor-gender
  knbench run --editors all --tasks all --device cuda --executor local --workers 8 --output runs/all
  knbench run --config run.yaml --limit 3
  knbench run --config runs/first/rome/capital/manifest.json --output runs/again

An interrupted run continues when the same command is started again.
"""


@click.command("run", epilog=EXAMPLES)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Catalogue name (see: knbench list models), Hugging Face id, folder or GGUF file.",
)
@click.option("--editors", default="none,rome", show_default=True, help="Comma-separated editor names, or 'all'.")
@click.option("--tasks", help=f"{TASKS_HELP} Required without --board.")
@BOARD_OPTION
@INCLUDE_OPTION
@DATA_OPTION
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Cases to run. Hyper-parameters are chosen on 'tune'; methods are ranked on 'test'.",
)
@click.option(
    "--subset",
    type=click.Choice(SUBSETS),
    default="full",
    show_default=True,
    help=f"'lite' runs a fixed sample of {LITE_CASES} cases per task, which is the same in every run.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Maximum number of cases per task, for quick trials. Limited runs are not ranked, except with the number of "
    "cases of a board and --subset lite.",
)
@click.option(
    "--known-only",
    is_flag=True,
    help="Run only cases that the unedited model knows, with the neighbours that it answers correctly.",
)
@click.option(
    "--known-by",
    type=click.Choice(["success", "exact", "generated"]),
    default="success",
    show_default=True,
    help="Criterion of --known-only: the true answer is more probable than the new one (success), each of its tokens "
    "is the most probable one (exact), or greedy generation begins with it (generated).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option(
    "--device-map", metavar="MAP", help="Shard a large model across GPUs, as in accelerate: auto, balanced, sequential."
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Data type of the weights."
)
@click.option("--revision", help="Commit, tag or branch of a model on Hugging Face.")
@click.option(
    "--batch-size",
    "--batch_size",
    type=BatchSize(),
    default=32,
    show_default=True,
    help="Number of sequences per forward pass when probes are measured; 'auto' follows the memory of a GPU.",
)
@click.option(
    "--bos",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Whether to prepend the BOS token. 'auto' follows the tokenizer.",
)
@click.option(
    "--editor-args",
    multiple=True,
    metavar="EDITOR.FIELD=VALUE",
    help="Set a hyper-parameter of an editor. Can be repeated. See: knbench describe EDITOR.",
)
@click.option("--batch-edits", type=click.IntRange(min=2), metavar="N", help="Apply the edits of N cases jointly.")
@click.option(
    "--sequential",
    type=click.IntRange(min=2),
    metavar="N",
    help="Apply the edits of N cases one after the other, without restoring the model in between. Each case is "
    "measured right after its edit, and all cases again at every checkpoint.",
)
@click.option(
    "--checkpoints",
    metavar="N,N,...",
    help="Numbers of sequential edits after which all previous cases are measured again. "
    "[default: 1,2,5,10,20,50,... and N]",
)
@click.option(
    "--drift",
    metavar="TASKS",
    help="Also measure side effects on unrelated tasks: comma-separated 'perplexity', linguistic tasks of KNBench, or "
    "lm-eval tasks. Measured after every edit or batch; in sequential runs, at the checkpoints.",
)
@click.option(
    "--drift-limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Maximum number of samples per drift task.",
)
@click.option(
    "--drift-text",
    type=click.Path(),
    help="File with held-out text for perplexity, its paragraphs separated by empty lines. "
    "[default: 20 built-in paragraphs]",
)
@click.option(
    "--fluency-tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of tokens to generate for the fluency criterion. 100 is common; 0 skips fluency.",
)
@CHAT_OPTION
@click.option(
    "--probes",
    metavar="NAMES",
    help="Probes to add to every case, comma-separated. They are reported and enter no score. distractor: neighbours "
    "after a sentence that states the edit. negation: whether the new and the old statement are true, in English.",
)
@click.option(
    "--executor",
    type=click.Choice(KINDS),
    default="auto",
    show_default=True,
    help="Run in this process (serial), in several processes on this machine (local), or on a Ray cluster (ray; needs: "
    "pip install 'knbench[ray]'). 'auto' takes one process for small runs and GPUs, else a process of one thread per "
    "core, as far as memory allows.",
)
@click.option(
    "--workers",
    "--num-workers",
    "workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of workers, each of which loads the model. [default: 2 for local; one per GPU, or per machine without "
    "GPUs, for ray]",
)
@click.option("--address", help="Address of a Ray cluster, for example auto or ray://head:10001. [default: start one]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads per worker. The number affects results by floating-point rounding. "
    "[default: CPU cores divided by the number of workers]",
)
@click.option(
    "--fail-on-error",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="Stop when more than this share (below 1) or number (1 and above) of the cases of an editor on a task failed. "
    "0 stops at the first. [default: never]",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Measure part I of N of the run, for independent jobs of a cluster. The parts are united with: knbench merge.",
)
@click.option("--retry-failed", is_flag=True, help="Run the failed cases of an earlier run in the same folder again.")
@PROTOCOL_OPTION
@ALL_COLUMNS_OPTION
@click.option("--output", "--output_path", type=click.Path(path_type=Path), help="Run folder. [default: runs/MODEL]")
@QUIET_OPTION
@CONFIG_OPTION
@PRINT_CONFIG_OPTION
@JSON_FLAG
def run_command(
    model: str,
    editors: str,
    tasks: str | None,
    board: str | None,
    include_path: Sequence[Path],
    data: Sequence[str],
    split: Split,
    subset: Subset,
    limit: int | None,
    known_only: bool,
    known_by: str,
    seed: int,
    device: str,
    device_map: str | None,
    dtype: str,
    revision: str | None,
    batch_size: int | Literal["auto"],
    bos: Any,
    editor_args: Sequence[str],
    batch_edits: int | None,
    sequential: int | None,
    checkpoints: str | None,
    drift: str | None,
    drift_limit: int,
    drift_text: str | None,
    fluency_tokens: int,
    apply_chat_template: bool,
    probes: str | None,
    executor: Kind,
    workers: int | None,
    address: str | None,
    threads: int | None,
    fail_on_error: float | None,
    shard: str | None,
    retry_failed: bool,
    protocol: str,
    all_columns: bool,
    output: Path | None,
    quiet: bool,
    print_config: bool,
    as_json: bool,
) -> None:
    """Run editors over tasks: measure, edit, measure again, restore.

    Writes one folder per editor and task to OUTPUT: manifest.json (the settings), records.jsonl (one line per case) and
    result.json (the scores).
    """
    if board is not None:
        run_on_board(click.get_current_context(), board)
        return
    if tasks is None:
        raise click.UsageError("Missing option '--tasks'.")
    check_model_name(model)
    editor_names = names_of(editors, known_editors(editors), "editor")
    chosen = chosen_tasks(tasks, include_path, data)
    config = RunConfig(
        model=model,
        editors=("all",) if editors.strip() == "all" else tuple(editor_names),
        tasks=_parts(tasks, "task"),
        include_path=tuple(map(str, include_path)),
        data=read_data_sources(data, tasks),
        split=split,
        subset=subset,
        limit=limit,
        known_only=known_only,
        known_by=known_by,
        seed=seed,
        device=device,
        device_map=device_map,
        dtype=dtype,
        revision=revision,
        batch_size=batch_size,
        bos=bos,
        editor_args=read_editor_args(editor_args, editor_names),
        batch_edits=batch_edits,
        sequential=sequential,
        checkpoints=_numbers(checkpoints, "--checkpoints"),
        drift=() if drift is None else _parts(drift, "drift task"),
        drift_limit=drift_limit,
        drift_text=drift_text,
        fluency_tokens=fluency_tokens,
        apply_chat_template=apply_chat_template,
        probes=() if probes is None else _parts(probes, "added probe"),
        executor=executor,
        workers=workers,
        address=address,
        threads=threads,
        fail_on_error=fail_on_error,
        retry_failed=retry_failed,
        output=None if output is None else str(output),
    )
    if print_config:
        click.echo(config.to_yaml(), nl=False)
        return
    config.settings(CPU_BATCH)  # settings that contradict each other are refused before workers start
    part = None if shard is None else Shard.parse(shard)
    folder = config.folder if part is None else config.folder / part.folder
    job = Job(
        config,
        chosen,
        lambda: _classes(config),
        loader(model, config),
        folder,
        model_bytes=lambda: _bytes_in_memory(model, revision, dtype),
        skip_unsupported=config.editors == ("all",),  # a named editor that does not support the model is an error
        shard=part,
    )
    try:
        check_installed("torch", "transformers")  # before worker processes start
        if sys.stderr.isatty() and not quiet:  # the bar appears when torch is imported
            size = f"{_count(editor_names, 'editor')} on {_count(chosen, 'task')}"
            click.echo(f"knbench: {size} with {model}: {folder}", err=True)
        runs, names = start(job, open_reporter(quiet=quiet), editors=len(editor_names), command=command_line())
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; finished cases are saved: start the same command to continue") from None
    if part is not None:
        click.echo(
            f"Measured part {part} in {folder}; when all jobs have ended: knbench merge {folder.parent}", err=True
        )
        return
    left_out = sorted(set(names) - {run.result.editor.name for run in runs})
    if left_out:
        click.echo(f"knbench: left out, because they need a causal model: {', '.join(left_out)}", err=True)
    from .result_tables import print_results

    results = [run.with_measures(unstored_measures(protocol)) for run in runs]
    if as_json:
        click.echo(json_text([to_json(result) for result in results]), nl=False)
        return
    print_results(results, protocol, [run.final_records() for run in runs], all_columns=all_columns)
    click.echo(f"Results: {folder}   Site: knbench site build {folder} --output site")


def _count(items: Sequence[object], noun: str) -> str:
    """Return the number of items with their noun, such as ``2 editors``."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _classes(config: RunConfig) -> list[type[Editor[Any]]]:
    """Return the classes of the editors of a configuration."""
    from .. import editing

    if config.editors == ("all",):
        return list(editing.editor_classes().values())
    return [editing.editor_class(name) for name in config.editors]


def _bytes_in_memory(model: str, revision: str | None, dtype: str) -> int | None:
    """Return the bytes of a model's weights, at most, or None if they are not on this machine."""
    stored = stored_model_bytes(model, revision)
    return None if stored is None else stored * (2 if dtype == "float32" else 1)  # files have two bytes per weight


def _parts(text: str, what: str) -> tuple[str, ...]:
    """Split a comma-separated list without duplicates.

    Raises:
        KnbenchError: the list is empty.
    """
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise KnbenchError(f"no {what} given")
    return parts


def _numbers(text: str | None, flag: str) -> tuple[int, ...] | None:
    """Parse a comma-separated list of whole numbers.

    Raises:
        KnbenchError: an item is not a whole number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in _parts(text, "checkpoint"))
    except ValueError:
        raise KnbenchError(f"{flag} '{text}': expected whole numbers, for example 10,50,100") from None
