"""Writes the files of a site, and renders its pages from templates."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from ..benchmark.results.trust import LEVELS
from . import paths
from .navigation import Navigation

KINDS = {
    "weights": "changes weights",
    "memory": "memory beside the weights",
    "context": "text in the context",
    "control": "control: shows what is reached without editing knowledge",
}
"""Kinds of methods in words."""
NEEDS = {
    "subject": "needs to know the subject of the edit",
    "training": "is trained on tuning cases first",
    "replay": "sees the facts of earlier edits again",
}
"""What methods need, in words."""

_OPTIONAL = re.compile(r"</(?:td|th|tr|li|dt|dd)>")
"""End tags that HTML implies. Text from results has none: it is escaped."""


def plain(text: str) -> str:
    """Return a text as it can stand in a string of a style sheet: letters, digits and harmless punctuation.

    >>> plain("Synonymous invariance"), plain("a';} \\n<b>")
    ('Synonymous invariance', 'a b')
    """
    return " ".join(re.sub(r"[^\w .,/()-]", " ", text).split())


class SiteWriter:
    """Writes into the folder of one site.

    Args:
        folder: folder that the site is written to.
        title: title of the site.
        version: versions of the benchmark that the results are of.
        url: address of the site, which ends with a slash; empty if it is unknown.
        navigation: the tables of the site.
        has_reported: whether there are numbers from papers.
    """

    def __init__(
        self, folder: Path, title: str, version: str, url: str, navigation: Navigation, *, has_reported: bool
    ) -> None:
        self.folder = folder
        self.url = url
        self.navigation = navigation
        self._globals = {
            "title": title, "version": version, "url": url, "has_reported": has_reported, "level_notes": LEVELS,
            "kind_words": KINDS, "need_words": NEEDS,
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the templates, which other processes load themselves."""
        return {key: value for key, value in self.__dict__.items() if key != "_environment"}

    @cached_property
    def _environment(self) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader(__package__, "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            self._globals,
            board_page=self.navigation.path,
            task_table=self.navigation.task_table,
            section_title=self.navigation.section_title,
            task_page=paths.task_page,
            model_page=paths.model_page,
            method_page=paths.method_page,
            method_anchor=paths.method_anchor,
            facts_page=paths.facts_page,
            result_page=paths.result_page,
            zip=zip,
        )
        environment.filters["plain"] = plain
        return environment

    def page(self, path: str, template: str, **values: Any) -> None:
        """Render a template as a page."""
        root = "../" * path.count("/")
        text = self._environment.get_template(template).render(root=root, path=path, **values)
        self.write(path, _OPTIONAL.sub("", text))

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file of the site."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
