"""``knbench check-editor``: run the conformance checks on an editor."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import click

from ..core.files import json_text
from .options import JSON_FLAG, read_editor_args

EXAMPLES = """
\b
Examples:
  knbench check-editor rome
  knbench check-editor my-method --json
  knbench check-editor my-method --editor-args my-method.layer=1

NAME is an entry point in the group knbench.editors of an installed package:

\b
  [project.entry-points."knbench.editors"]
  my-method = "my_package.my_method:MyMethod"
"""


@click.command("check-editor", epilog=EXAMPLES)
@click.argument("name")
@click.option(
    "--editor-args",
    multiple=True,
    metavar="EDITOR.FIELD=VALUE",
    help="Set a hyper-parameter, for example if its generic value does not suit a tiny model. Repeatable.",
)
@JSON_FLAG
def check_editor_command(name: str, editor_args: Sequence[str], as_json: bool) -> None:
    """Check that an editor follows the rules of the editor interface.

    The editor NAME edits tiny random models, which takes seconds. The checks include: the model stays unchanged, its
    weights are restored bit for bit, and edits are deterministic. For each failed check the table shows the violations
    and advice. The exit status is 1 if a check fails.
    """
    from .. import editing

    cls = editing.editor_class(name)
    overrides = read_editor_args(editor_args, [name]).get(name)

    from ..conformance.checks import check_editor
    from .progress import open_reporter
    from .terminal import print_table

    with open_reporter() as reporter:
        results = check_editor(cls, name=name, overrides=overrides, reporter=reporter)
    failed = [result for result in results if not result.ok]
    if as_json:
        rows = [dataclasses.asdict(result) for result in results]
        click.echo(json_text({"editor": name, "ok": not failed, "checks": rows}), nl=False)
    else:
        cells = [
            [r.name, "ok" if r.ok else "FAILED", r.message if r.ok else f"{r.message}\n{r.explanation}"]
            for r in results
        ]
        print_table(f"editor '{name}'", ["check", "result", "details"], cells)
        if failed:
            click.echo(f"{name} fails {len(failed)} of {len(results)} checks: {', '.join(r.name for r in failed)}")
        else:
            click.echo(f"{name} passes all {len(results)} checks")
    if failed:
        sys.exit(1)
