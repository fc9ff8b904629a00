"""Reads ``published.yaml``: hyper-parameters from papers and from tuning, as data."""

from __future__ import annotations

from importlib.resources import files

import yaml

from ..benchmark.editing import Published


def published(editor: str) -> tuple[Published, ...]:
    """Return an editor's published hyper-parameters, one entry per model shape."""
    table = yaml.safe_load(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))
    return tuple(
        Published(shape=table["shapes"][entry["model"]], values=entry["values"], source=entry["source"])
        for entry in table["editors"].get(editor, ())
    )
