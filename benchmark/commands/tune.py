"""The command ``knbench tune``: choose an editor's hyper-parameters on held-out cases."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..core.errors import InterruptedRun
from ..core.files import json_text, write_json
from ..core.local_paths import without_folders
from ..models.catalogue import DEFAULT_MODEL, check_model_name
from ..models.devices import DEVICE_HELP, check_device
from ..scoring.criteria import MEASURES
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, TASKS_HELP, chosen_tasks

HELP = """
\b
Examples:
  knbench tune --editor rome --tasks capital,det-noun-agreement --limit 6 --grid layer=3,5,8
  knbench tune --editor ft-l --tasks capital --grid layer=0,5 --grid epsilon=5e-4,5e-3

The same command continues an interrupted tuning. A larger grid reuses the points that are finished.
"""


@click.command("tune", epilog=HELP)
@click.option("--editor", "editor_name", required=True, help="Editor whose hyper-parameters to tune.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@INCLUDE_OPTION
@DATA_OPTION
@click.option(
    "--grid",
    multiple=True,
    metavar="FIELD=VALUE,...",
    help="Hyper-parameter and its values. May be repeated; every combination is run.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of tuning cases per task.")
@click.option(
    "--known-only/--no-known-only",
    default=True,
    show_default=True,
    help="Tune only on cases and neighbours that the unedited model answers correctly.",
)
@click.option(
    "--measure",
    type=click.Choice(["edit_score", *(m.name for m in MEASURES.values() if m.share and m.stored)]),
    default="edit_score",
    show_default=True,
    help="Objective: the edit score, or S by a measure.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random choices.")
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows per probing batch.")
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for tuning.json and one run folder per point. [default: tuning/MODEL/EDITOR]",
)
@JSON_FLAG
@click.pass_context
def tune_command(
    ctx: click.Context,
    editor_name: str,
    model: str,
    tasks: str,
    include_path: Sequence[Path],
    data: Sequence[str],
    grid: Sequence[str],
    limit: int | None,
    known_only: bool,
    measure: str,
    seed: int,
    device: str,
    batch_size: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Choose an editor's hyper-parameters on held-out cases.

    Every combination of the --grid values is run over the tuning cases of the tasks: about one case in five, which
    'knbench run' leaves out. The best combination has the highest edit score, computed from the families direct and
    wording and from preservation, averaged over the tasks. With another --measure, it has the highest S, the harmonic
    mean of reliability, paraphrase and neighbourhood. Ties are broken by the margin, the mean P(wanted) - P(rival) of
    these three criteria; then by the share of neighbours whose next token does not change; then by the order of the
    grid.

    The families inverse and consequence are not used, because they judge the methods. Tuning on them would leak the
    test criteria into the methods.

    Hyper-parameters without --grid keep their published or default values. A --grid with one value sets a
    hyper-parameter.
    """
    check_model_name(model)
    from .. import editing

    cls = editing.editor_class(editor_name)
    chosen = chosen_tasks(tasks, include_path, data)

    from ..running.tuning import REPORT, check_tasks, parse_grid, report, tune, yaml_block

    points = parse_grid(cls, grid)
    check_tasks(chosen)
    device = check_device(device)

    from ..core.settings import RunSettings
    from ..models.loading import load_model
    from ..scoring.summary import ROME_SCORE
    from .progress import open_reporter
    from .terminal import print_table

    lm = load_model(model, device=device)
    folder = output or Path("tuning") / lm.name.replace("/", "--") / cls.name
    settings = RunSettings(limit=limit, seed=seed, known_only=known_only, batch_size=batch_size)
    try:
        with open_reporter() as reporter:
            outcomes = tune(lm, cls, chosen, points, folder, settings, measure=measure, reporter=reporter)
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; finished cases are saved: start the same command to continue") from None
    command = _command(ctx)
    summary = report(lm, cls, chosen, outcomes, folder, settings, measure=measure, command=command)
    write_json(folder / REPORT, summary)
    if as_json:
        click.echo(json_text(summary), nl=False)
        return
    fields = list(points[0].values)
    notes = [cls.name, lm.name, f"{outcomes[0].cases} tuning cases of {len(chosen)} tasks", measure]
    notes += ["known only"] if known_only else []
    objective = "edit score" if measure == "edit_score" else "S"
    header = [*fields, *ROME_SCORE, objective, "margin", "same token", "s/edit", "failed"]
    rows = [_row(point, fields, [*ROME_SCORE, "score"]) for point in summary["points"]]
    print_table(", ".join(notes), header, rows)
    click.echo(
        f"Means over tasks, best first: by {objective}, then margin, then same token (neighbours with unchanged next "
        "token).\n"
    )
    if summary["published"] is None:
        click.echo("No point has an edit that works: the score is 0 or all edits failed. Try other --grid values.")
    else:
        click.echo("Entry for editors/published.yaml:\n")
        click.echo(yaml_block(summary["published"]))
    click.echo(f"Report: {folder / REPORT}   Recompute: knbench score {folder}")


def _row(point: Mapping[str, Any], fields: Sequence[str], shares: Sequence[str]) -> list[str]:
    percent = [f"{100 * point[name]:.1f}" for name in (*shares, "same_token")]
    percent.insert(-1, f"{point['margin']:.3f}")
    seconds = "" if point["seconds"] is None else f"{point['seconds']:.2f}"
    return [*(str(point["values"][name]) for name in fields), *percent, seconds, str(point["failed"])]


def _command(ctx: click.Context) -> str:
    """Return the command line, with the options that affect the numbers and differ from their defaults.

    Local paths lose their folders, because the report is published with the values.
    """
    words = ["knbench", "tune"]
    for option in ctx.command.params:
        value = ctx.params[str(option.name)]
        if option.name in ("output", "device", "batch_size", "as_json") or value == option.get_default(ctx):
            continue
        if value is False:
            words.append(option.secondary_opts[0])
            continue
        for item in value if option.multiple else [value]:
            words += [option.opts[0], "=".join(map(without_folders, str(item).split("=")))]
    return shlex.join(words)
