"""What is read from source equals what an import gives."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import click
import pytest
from knbench.benchmark.commands.main import load_command
from knbench.benchmark.core import registry
from knbench.benchmark.core.declarations import class_constants, docstring
from knbench.benchmark.editing import editor_class, guard_class

BUILT_IN = [
    (group, point)
    for group in (registry.EDITORS, registry.GUARDS, registry.COMMANDS)
    for point in registry.registered(group).values()
    if registry.is_built_in(point)
]


@pytest.mark.parametrize(("group", "point"), BUILT_IN, ids=lambda value: getattr(value, "name", ""))
def test_the_source_of_a_built_in_object_says_what_its_import_does(group, point):
    if group == registry.COMMANDS:
        assert (
            click.Command("x", help=docstring(point)).get_short_help_str() == load_command(point).get_short_help_str()
        )
        return
    cls = editor_class(point.name) if group == registry.EDITORS else guard_class(point.name)
    names = ("name", "kind", "summary", "paper") if group == registry.EDITORS else ("name", "summary", "paper")
    found = class_constants(point, names)
    assert {"kind": "weights", "paper": "", **found} == {"kind": "weights", **{n: getattr(cls, n) for n in names}}


def test_other_entry_points_have_to_be_imported():
    outside = EntryPoint("x", "inspect:getdoc", registry.EDITORS)
    assert (docstring(outside), class_constants(outside, ["name"])) == (None, None)
    missing = EntryPoint("x", "knbench.editors.nothing:Nothing", registry.EDITORS)
    assert (docstring(missing), class_constants(missing, ["name"])) == (None, {})
