"""Paths of the site's pages, relative to its root."""

from __future__ import annotations

from ..benchmark.core.documents import Result, TaskCard
from ..benchmark.results.layout import slug
from .entries import Section, TaskKey, section_key


def task_slug(task: TaskKey) -> str:
    """Return the name of a task in paths."""
    return f"{task[0]}-v{task[1]}"


def method_page(name: str) -> str:
    """Return the path of a method's page."""
    return f"methods/{slug(name)}.html"


def task_page(task: TaskCard) -> str:
    """Return the path of a task's page. Each version has its own page."""
    return f"tasks/{slug(task.name)}-v{task.version}.html"


def model_page(name: str, weight_hash: str) -> str:
    """Return the path of a model's page. Models of one name with different weights have different pages."""
    return f"models/{slug(name)}-{weight_hash[:16]}.html"


def result_page(result: Result) -> str:
    """Return the path of a result's page, which shows every case. It does not depend on boards."""
    task = slug(task_slug((result.task.name, result.task.version)))
    return f"results/{slug(result.editor.name)}/{section_key(result)}/{task}.html"


def pair_page(section: Section, first: str, second: str) -> str:
    """Return the path of the page that compares two methods, in either order."""
    a, b = sorted((first, second))
    return f"compare/{section.key}/{slug(a)}--{slug(b)}.html"
