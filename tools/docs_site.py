"""Hooks of MkDocs for the documentation site, named in ``mkdocs.yml``.

The pages of ``docs/`` are also read on a code host. There, links lead to files of the repository, diagrams are drawn by
Mermaid, and docstrings have roles of Sphinx. The site is complete by itself and loads nothing from other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```+|~~~+).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"<!-- table: (\w+) -->")
_ROLE = re.compile(r":(?:class|meth|func|attr|data|mod|exc):<code>~?([^<]*)</code>")


def on_startup(**_: Any) -> None:
    """Link the package below a folder with its name, in which its docstrings are found without importing it.

    The package ``knbench`` is the root of the repository, which has many other files.
    """
    link = ROOT / ".docs_cache" / "knbench" / "benchmark"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT / "benchmark", target_is_directory=True)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page with its tables, without diagrams of Mermaid and without links out of ``docs/``.

    Raises:
        KeyError: the page asks for a table that does not exist.
        PluginError: a link out of ``docs/`` leads to no file of the repository.
    """
    markdown = _MERMAID.sub(lambda found: diagram_text(found[1]), markdown)
    markdown = _TABLE.sub(lambda found: TABLES[found[1]](), markdown)
    parts, start = [], 0
    for fence in _FENCE.finditer(markdown):  # code is left as it is
        parts += [_without_outside_links(markdown[start : fence.start()], page.file.src_uri), fence[0]]
        start = fence.end()
    return "".join([*parts, _without_outside_links(markdown[start:], page.file.src_uri)])


def on_page_content(html: str, **_: Any) -> str:
    """Return the HTML of a page with plain names in place of Sphinx roles.

    It has no double colon before code, and no marker of click for a flag without default.
    """
    html = _ROLE.sub(lambda found: f"<code>{found[1].rsplit('.', 1)[-1]}</code>", html)
    return html.replace("::</p>", ":</p>").replace("<code>Sentinel.UNSET</code>", "")


def _without_outside_links(text: str, source: str) -> str:
    """Replace links that lead out of ``docs/`` by their text, which names the file.

    Args:
        text: Markdown without code blocks.
        source: path of the page relative to ``docs/``.
    """

    def replaced(link: re.Match[str]) -> str:
        target = link[3]
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = (ROOT / "docs" / PurePosixPath(source).parent / target).resolve()
        if path.is_relative_to(ROOT / "docs") and not path.is_dir():  # MkDocs checks these links
            return link[0]
        if not path.exists():
            raise PluginError(f"docs/{source}: the link to {target} leads to no file")
        return link[2]

    return _LINK.sub(replaced, text)


def diagram_text(diagram: str) -> str:
    """Return a flowchart of Mermaid as lines of text in a code block.

    >>> print(diagram_text("flowchart LR\\n  a[task] -- cases --> b[runner]\\n  b --> c & d\\n"))
    ```text
    task -- cases --> runner
    runner --> c, d
    ```
    """
    names = dict(re.findall(r"(\w+)\[([^\]]*)\]", diagram))
    lines = []
    for line in diagram.splitlines()[1:]:
        text = re.sub(r"(\w+)\[[^\]]*\]", r"\1", line.strip()).replace(" & ", ", ")
        parts = re.split(r"(\s--.*?-->\s|\s-->\s)", text)
        lines.append("".join(part if "-->" in part else _named(part, names) for part in parts))
    return "\n".join(["```text", *filter(None, lines), "```"])


def _named(part: str, names: dict[str, str]) -> str:
    return ", ".join(names.get(name, name) for name in part.split(", "))


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _editors() -> str:
    from knbench.benchmark.editing import editor_classes

    rows = [
        [f"`{name}`", cls.kind, cls.summary, "causal" if cls.causal_only else "all", cls.paper]
        for name, cls in editor_classes().items()
    ]
    return _markdown_table(["name", "kind", "method", "models", "paper"], rows)


def _guards() -> str:
    from knbench.benchmark.core import registry
    from knbench.benchmark.editing import guard_class

    classes = [guard_class(name) for name in registry.registered(registry.GUARDS)]
    return _markdown_table(["name", "guard", "paper"], [[f"`{c.name}`", c.summary, c.paper] for c in classes])


def _families() -> str:
    from knbench.benchmark.models.families import known_families

    rows = [
        [f"`{name}`", family.objective, f"`{family.blocks}`", f"`{family.mlp_in}`", f"`{family.mlp_out}`"]
        for name, family in sorted(known_families().items())
    ]
    return _markdown_table(["architecture", "kind", "blocks", "MLP in", "MLP out (W)"], rows)


def _criteria() -> str:
    from knbench.benchmark.scoring.criteria import CRITERIA

    return _markdown_table(["criterion", "question"], [[c.name, c.question] for c in CRITERIA.values()])


def _measures() -> str:
    from knbench.benchmark.scoring.criteria import MEASURES

    return _markdown_table(["measure", "definition"], [[f"`{m.name}`", m.definition] for m in MEASURES.values()])


def _tasks() -> str:
    from knbench.benchmark.core import registry

    rows = [[f"`{t.name}`", t.kind, t.title, str(len(t.cases)), t.licence] for t in registry.tasks().values()]
    return _markdown_table(["name", "kind", "title", "cases", "licence"], sorted(rows, key=lambda row: row[1]))


def _commands() -> str:
    """Return a block of mkdocs-click for each command."""
    from knbench.benchmark.core import registry

    blocks = []
    for name, point in registry.registered(registry.COMMANDS).items():
        module, _, attribute = point.value.partition(":")
        options = {"module": module, "command": attribute, "prog_name": f"knbench {name}", "depth": 1, "style": "table"}
        blocks.append("\n".join(["::: mkdocs-click", *(f"    :{key}: {value}" for key, value in options.items())]))
    return "\n\n".join(blocks)


TABLES: Mapping[str, Callable[[], str]] = {
    "commands": _commands,
    "criteria": _criteria,
    "editors": _editors,
    "families": _families,
    "guards": _guards,
    "measures": _measures,
    "tasks": _tasks,
}
"""Parts that pages get from the code, by the name in ``<!-- table: NAME -->``."""
