"""``--config`` and ``--print-config``: the flags of ``knbench run`` in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from ..api.run_config import AUTO, RunConfig, as_text, read_config
from ..core.errors import unknown_name

_SHOWN = ("board", "shard", "protocol", "all_columns", "as_json", "quiet")
"""Parameters of the command that are not part of a configuration, but may be in its file."""
_JOINED = ("editors", "tasks", "checkpoints", "drift", "probes")


def _read(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take the values of a file as defaults, which flags override."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **_defaults(read_config(path), str(path))}


CONFIG_OPTION = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_read,
    help="Read flags from a YAML file, by their names without dashes at the front. Flags on the command line override "
    "it. The manifest or the result of a run (*.json) is read, too: it runs again.",
)
PRINT_CONFIG_OPTION = click.option(
    "--print-config", is_flag=True, help="Print the flags in effect as YAML, and run nothing."
)


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # older versions of click are not generic
    """A whole number above 0, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["auto"]:
        """Return the value; fails with a usage error."""
        if value == AUTO:
            return "auto"
        number: int = click.IntRange(min=1).convert(value, param, ctx)
        return number


def _defaults(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return defaults of the command's parameters, as texts where the command parses them.

    Raises:
        KnbenchError: a name is unknown, or a value is unusable.
    """
    shown = {"json" if name == "as_json" else name.replace("_", "-"): name for name in _SHOWN}
    own, further = {}, {}
    for key, value in values.items():
        flag = str(key).lstrip("-").replace("_", "-")
        if flag in shown:
            further[shown[flag]] = value
        else:
            own[flag] = value
    known = RunConfig().to_mapping()
    for flag in own:
        if flag not in known:
            raise unknown_name(f"name in {source}", flag, [*known, *shown])
    config = RunConfig.from_mapping(own, source)
    defaults: dict[str, Any] = {}
    for flag in own:
        name = flag.replace("-", "_")
        value = getattr(config, name)
        if name in _JOINED:
            defaults[name] = ",".join(map(str, value)) if value else None
        elif name == "data":
            defaults[name] = [f"{reader}={place}" for reader, place in value.items()]
        elif name == "editor_args":
            defaults[name] = [f"{e}.{key}={text}" for e, args in value.items() for key, text in as_text(args).items()]
        else:
            defaults[name] = list(value) if isinstance(value, tuple) else value
    return {name: value for name, value in {**defaults, **further}.items() if value is not None}
