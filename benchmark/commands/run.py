"""``knbench run``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..core import registry
from ..core.errors import InterruptedRun, KnbenchError
from ..core.files import json_text
from ..core.settings import DriftSettings, RunSettings
from ..core.split import LITE, SPLITS, SUBSETS, Split, Subset
from ..models.loading import DEFAULT_MODEL, DTYPES, check_model_name, load_model, model_label
from ..running.workers.config import KINDS, ExecutorConfig, Kind, open_executor
from .options import (
    DATA_OPTION,
    INCLUDE_OPTION,
    JSON_FLAG,
    PROTOCOL_OPTION,
    TASKS_HELP,
    check_device,
    chosen_tasks,
    names_of,
    read_editor_args,
    typed,
)

EXAMPLES = """
\b
Examples:
  knbench run --editors rome --tasks capital --limit 3
  knbench run --editors all --tasks all --known-only --output runs/all
  knbench run --model ./my-model --editors rome --editor-args rome.layer=7 --tasks capital
  knbench run --editors memit --tasks capital --batch-edits 10 --known-only
  knbench run --editors rome,memit --tasks capital --sequential 100 --drift perplexity,anaphor-gender
  knbench run --editors all --tasks all --device cuda --executor local --workers 8 --output runs/all

Starting the same command again continues where it stopped.
"""


@click.command("run", epilog=EXAMPLES)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--editors", default="none,rome", show_default=True, help="Editors, comma-separated, or 'all'.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@INCLUDE_OPTION
@DATA_OPTION
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Which cases: methods may be tuned on those of 'tune', and are judged on those of 'test'.",
)
@click.option(
    "--subset",
    type=click.Choice(SUBSETS),
    default="full",
    show_default=True,
    help=f"'lite' takes a fixed draw of {LITE} of a task's cases, the same for everybody.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases a task, to try things; never ranked.")
@click.option("--known-only", is_flag=True, help="Judge only cases and neighbours that the unedited model gets right.")
@click.option(
    "--known-by",
    type=click.Choice(["success", "exact", "generated"]),
    default="success",
    show_default=True,
    help="What counts as known: preferred to the new answer, each token first, or said freely.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every random choice.")
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps.")
@click.option(
    "--device-map", metavar="MAP", help="Share a big model out among cards, as accelerate does: auto, balanced."
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--revision", help="Commit or tag of a hub model.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows per probing batch.")
@click.option(
    "--bos",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Whether texts begin with BOS; auto does as the tokenizer does.",
)
@click.option(
    "--editor-args",
    multiple=True,
    metavar="EDITOR.FIELD=VALUE",
    help="Set a hyper-parameter; may be repeated.",
)
@click.option("--batch-edits", type=click.IntRange(min=2), metavar="N", help="Make the edits of N cases at once.")
@click.option(
    "--sequential",
    type=click.IntRange(min=2),
    metavar="N",
    help="Make the edits of N cases one upon the other; measure each right after it, and all again at checkpoints.",
)
@click.option(
    "--checkpoints",
    metavar="N,N,...",
    help="After how many sequential edits to measure all again. [default: 1,2,5,10,20,50,... and the last]",
)
@click.option(
    "--drift",
    metavar="TASKS",
    help="Also measure what edits are not about: 'perplexity', our linguistic tasks, or lm-eval's, comma-separated; "
    "after every edit or batch, of sequential edits at the checkpoints.",
)
@click.option("--drift-limit", type=click.IntRange(min=1), default=100, show_default=True, help="Samples a drift task.")
@click.option("--drift-text", type=click.Path(), help="Held-out text for perplexity. [default: twenty paragraphs]")
@click.option(
    "--fluency-tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Length of the text that fluency is judged by; 100 is usual, 0 leaves fluency out.",
)
@click.option(
    "--executor",
    type=click.Choice(KINDS),
    default="serial",
    show_default=True,
    help="Who measures: this process, several on this machine, or a Ray cluster (pip install 'knbench[ray]').",
)
@click.option(
    "--workers",
    "--num-workers",
    "workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many, each with the model. [default: local 2; ray one per card, or per machine]",
)
@click.option("--address", help="Address of a Ray cluster, such as auto or ray://head:10001. [default: one of its own]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of each worker; another number changes the last bits. [default: the processors shared out]",
)
@click.option("--retry-failed", is_flag=True, help="Try again the cases that failed when the run was here before.")
@PROTOCOL_OPTION
@click.option("--output", "--output_path", type=click.Path(path_type=Path), help="Run folder. [default: runs/MODEL]")
@JSON_FLAG
def run_command(
    model: str,
    editors: str,
    tasks: str,
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
    batch_size: int,
    bos: Any,
    editor_args: Sequence[str],
    batch_edits: int | None,
    sequential: int | None,
    checkpoints: str | None,
    drift: str | None,
    drift_limit: int,
    drift_text: str | None,
    fluency_tokens: int,
    executor: Kind,
    workers: int | None,
    address: str | None,
    threads: int | None,
    retry_failed: bool,
    protocol: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run editors over tasks: measure, edit, measure again, restore; write records and results."""
    check_model_name(model)
    editor_names = names_of(editors, registry.registered(registry.EDITORS), "editor")
    chosen = chosen_tasks(tasks, include_path, data)
    args = read_editor_args(editor_args, editor_names)
    settings = RunSettings(
        split=split,
        subset=subset,
        limit=limit,
        seed=seed,
        known_only=known_only,
        known_by=known_by,
        batch_size=batch_size,
        fluency_tokens=fluency_tokens,
        batch_edits=batch_edits,
        sequential=sequential,
        checkpoints=_numbers(checkpoints, "--checkpoints"),
        drift=None if drift is None else DriftSettings(_parts(drift, "drift task"), drift_limit, drift_text),
        editor_args=args,
        retry_failed=retry_failed,
    )
    folder = output or Path("runs") / model_label(model).replace("/", "--")
    try:
        # Whoever works elsewhere gets ready while torch is imported here.
        with open_executor(ExecutorConfig(executor, workers, address, threads, device)) as start_executor:
            from .. import editing
            from ..editing import parse_overrides
            from ..running.evaluator import RunSpec
            from ..running.runner import carry_out
            from .terminal import ProgressReporter, print_results

            classes = [editing.editor_class(name) for name in editor_names]
            for cls in classes:
                parse_overrides(cls, args.get(cls.name, {}))
            if executor != "ray":  # whose machines may have other devices
                check_device(device)
            load = partial(load_model, model, dtype=dtype, revision=revision, bos=bos, device_map=device_map)
            # An editor that was asked for by its name is refused where the model does not suit it, one of all left out.
            spec = RunSpec(load, classes, chosen, settings, leave_out=editors.strip() == "all")
            with ProgressReporter() as reporter:
                folders = carry_out(start_executor(spec), folder, settings, reporter, command=typed())
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; what was measured is kept: start the same command to continue") from None
    left = sorted({cls.name for cls in classes} - {path.parent.name for path in folders})
    if left:
        click.echo(f"knbench: left out, for they need a causal model: {', '.join(left)}", err=True)
    from ..results.documents import load_result

    results = [load_result(path / "result.json") for path in folders]
    if as_json:
        click.echo(json_text(results), nl=False)
        return
    print_results(results, protocol)
    click.echo(f"Results: {folder}   Site: knbench site build {folder} --output site")


def _parts(text: str, what: str) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise KnbenchError(f"no {what} named")
    return parts


def _numbers(text: str | None, flag: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in _parts(text, "checkpoint"))
    except ValueError:
        raise KnbenchError(f"{flag} '{text}': expected whole numbers, such as 10,50,100") from None
