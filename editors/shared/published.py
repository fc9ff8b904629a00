"""Read ``editors/published.yaml``, the hyper-parameters from papers, other software and this project's tuning."""

from __future__ import annotations

from importlib.resources import files

import yaml

from ...benchmark.editing import Published


def published(editor: str) -> tuple[Published, ...]:
    """Return the published hyper-parameters of an editor, one entry per model."""
    table = yaml.safe_load(files("knbench.editors").joinpath("published.yaml").read_text(encoding="utf-8"))
    return tuple(
        Published(table["shapes"][entry["model"]], entry["values"], entry["source"], entry["model"])
        for entry in table["editors"].get(editor, ())
    )
