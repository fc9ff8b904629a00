"""Reads what built-in commands and methods declare from their source, without importing it.

An import of all commands or of all methods takes seconds, because they import scipy and torch. Lists need a sentence of
each only.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from .registry import PACKAGE, is_built_in

ROOT = Path(__file__).parents[2]
"""Folder of the package."""


def docstring(point: EntryPoint) -> str | None:
    """Return the docstring of a built-in function, or None if the entry point is another one or has none."""
    found = _declaration(point.module, point.attr) if is_built_in(point) else None
    return ast.get_docstring(found[0]) if found and isinstance(found[0], ast.FunctionDef) else None


def class_constants(point: EntryPoint, names: Sequence[str]) -> dict[str, Any] | None:
    """Return attributes of a built-in class that are constants in its source or in that of its base classes.

    Args:
        point: the entry point of the class.
        names: names of the attributes. One that no class sets is missing in the result.

    Returns:
        Values by name, or None if the class is not built in, or an attribute is not a constant.
    """
    if not is_built_in(point):
        return None
    values: dict[str, Any] = {}
    try:
        _collect(point.module, point.attr, frozenset(names), values)
    except (ValueError, OSError, SyntaxError):
        return None
    return values


def _collect(module: str, name: str, wanted: frozenset[str], values: dict[str, Any]) -> None:
    """Add the constants of a class and of its bases, those of the class itself first.

    Raises:
        ValueError: an attribute is not a constant.
    """
    found = _declaration(module, name)
    if found is None:
        return
    declaration, tree = found
    if not isinstance(declaration, ast.ClassDef):
        raise ValueError(f"{module}:{name} is not a class")
    for statement in declaration.body:
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            continue
        for target in (t for t in targets for t in (t.elts if isinstance(t, ast.Tuple) else [t])):
            if isinstance(target, ast.Name) and target.id in wanted and target.id not in values:
                assert statement.value is not None
                values[target.id] = ast.literal_eval(statement.value)
    for base in declaration.bases:
        node = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(node, ast.Name):
            _collect(*_origin(tree, module, node.id), wanted, values)


def _declaration(module: str, name: str) -> tuple[ast.stmt, ast.Module] | None:
    """Return the function or class of a module of this package with the tree of the module, or None."""
    tree = _parsed(module)
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name == name:
            assert tree is not None
            return statement, tree
    return None


@cache
def _parsed(module: str) -> ast.Module | None:
    """Return the tree of a module of this package, or None for another module."""
    package, _, rest = module.partition(".")
    path = ROOT / Path(*rest.split(".")) if package == PACKAGE and rest else None
    if path is None:
        return None
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


def _origin(tree: ast.Module, module: str, name: str) -> tuple[str, str]:
    """Return the module and the name under which an imported class is defined; the module itself if it defines it."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    base = module.split(".")[: -statement.level] if statement.level else []
                    return ".".join([*base, *(statement.module or "").split(".")]).strip("."), alias.name
    return module, name
