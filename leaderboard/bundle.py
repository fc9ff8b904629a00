"""The table library, taken from the package that carries it: DataTables, as itables bundles it.

It comes as a JavaScript module, which browsers do not load from disk; wrapped as a plain script they do.
"""

from __future__ import annotations

import re
from importlib.resources import files

from ..benchmark.core.errors import KnbenchError

PACKAGE = "itables"
_EXPORT = re.compile(r"export\{[^{}]*?\b(\w+) as default\b[^{}]*\};?")


def table_script() -> str:
    """Return DataTables as a plain script that defines ``window.DataTable``.

    Raises:
        KnbenchError: the package has it in another form.
    """
    text = _read("dt_bundle.js")
    found = _EXPORT.search(text)
    if found is None:
        raise KnbenchError(f"the installed {PACKAGE} bundles its tables in another form; install {PACKAGE}==2.9.1")
    body = text[: found.start()] + f"window.DataTable={found[1]};" + text[found.end() :]
    return f"(()=>{{{body}\n}})();\n"


def table_style() -> str:
    """Return DataTables' style sheet."""
    return _read("dt_bundle.css")


def _read(name: str) -> str:
    return (files(PACKAGE) / "html" / name).read_text(encoding="utf-8")
