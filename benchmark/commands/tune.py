"""``knbench tune``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..core.errors import InterruptedRun
from ..core.files import json_text, write_json
from ..models.loading import DEFAULT_MODEL, check_model_name
from ..scoring.criteria import MEASURES
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, TASKS_HELP, check_device, chosen_tasks

HELP = """
\b
Examples:
  knbench tune --editor rome --tasks capital,det-noun-agreement --limit 6 --grid layer=3,5,8
  knbench tune --editor ft-l --tasks capital --grid layer=0,5 --grid epsilon=5e-4,5e-3

Starting the same command again continues where it stopped; a larger grid adds to what is there.
"""


@click.command("tune", epilog=HELP)
@click.option("--editor", "editor_name", required=True, help="The editor whose hyper-parameters are chosen.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@INCLUDE_OPTION
@DATA_OPTION
@click.option(
    "--grid",
    multiple=True,
    metavar="FIELD=VALUE,...",
    help="A hyper-parameter and its values; may be repeated, and every combination is tried.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many tuning cases a task.")
@click.option(
    "--known-only/--no-known-only",
    default=True,
    show_default=True,
    help="Tune only on cases and neighbours that the unedited model gets right.",
)
@click.option(
    "--measure",
    type=click.Choice([measure.name for measure in MEASURES.values() if measure.share]),
    default="success",
    show_default=True,
    help="What S is taken by.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides every random choice.")
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows per probing batch.")
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of tuning.json and of one run per point. [default: tuning/MODEL/EDITOR]",
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
    'knbench run' leaves out. Best is what has the highest S, the harmonic mean of reliability, paraphrase and
    neighbourhood, averaged over the tasks. Ties are broken by the margin, the mean P(wanted) - P(rival) of the same
    criteria; then by the share of neighbours whose next token is as before; then by the order of the grid.

    Symmetry, synonymous invariance and the other criteria are never looked at: they are what methods are judged by, and
    tuning on them would be teaching to the test.

    Hyper-parameters that have no --grid keep their published or default values; one with a single value is set to it.
    """
    check_model_name(model)
    from .. import editing

    cls = editing.editor_class(editor_name)
    chosen = chosen_tasks(tasks, include_path, data)

    from ..running.tuning import REPORT, check_tasks, parse_grid, report, tune, yaml_block

    points = parse_grid(cls, grid)
    check_tasks(chosen)
    check_device(device)

    from ..core.settings import RunSettings
    from ..models.loading import load_model
    from ..scoring.summary import ROME_SCORE
    from .terminal import ProgressReporter, print_table

    lm = load_model(model, device=device)
    folder = output or Path("tuning") / lm.name.replace("/", "--") / cls.name
    settings = RunSettings(limit=limit, seed=seed, known_only=known_only, batch_size=batch_size)
    try:
        with ProgressReporter() as reporter:
            outcomes = tune(lm, cls, chosen, points, folder, settings, measure=measure, reporter=reporter)
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; what was measured is kept: start the same command to continue") from None
    command = _command(ctx)
    found = report(lm, cls, chosen, outcomes, folder, settings, measure=measure, command=command)
    write_json(folder / REPORT, found)
    if as_json:
        click.echo(json_text(found), nl=False)
        return
    fields = list(points[0].values)
    notes = [cls.name, lm.name, f"{outcomes[0].cases} tuning cases of {len(chosen)} tasks", measure]
    notes += ["known only"] if known_only else []
    header = [*fields, *ROME_SCORE, "S", "margin", "same token", "s/edit", "failed"]
    rows = [_row(point, fields, [*ROME_SCORE, "score"]) for point in found["points"]]
    print_table(", ".join(notes), header, rows)
    click.echo("Means over tasks, best first. S decides, then margin, then same token (of the neighbours).\n")
    if found["published"] is None:
        click.echo("No point edits anything: try other values.")
    else:
        click.echo("For editors/published.yaml:\n")
        click.echo(yaml_block(found["published"]))
    click.echo(f"All of it: {folder / REPORT}   Recompute: knbench score {folder}")


def _row(point: Mapping[str, Any], fields: Sequence[str], shares: Sequence[str]) -> list[str]:
    percent = [f"{100 * point[name]:.1f}" for name in (*shares, "same_token")]
    percent.insert(-1, f"{point['margin']:.3f}")
    seconds = "" if point["seconds"] is None else f"{point['seconds']:.2f}"
    return [*(str(point["values"][name]) for name in fields), *percent, seconds, str(point["failed"])]


def _command(ctx: click.Context) -> str:
    """Spell the command again, with what decides the numbers and differs from the defaults."""
    words = ["knbench", "tune"]
    for option in ctx.command.params:
        value = ctx.params[str(option.name)]
        if option.name in ("output", "device", "batch_size", "as_json") or value == option.get_default(ctx):
            continue
        if value is False:
            words.append(option.secondary_opts[0])
            continue
        for item in value if option.multiple else [value]:
            words += [option.opts[0], str(item)]
    return shlex.join(words)
