"""Paths of the site's pages, relative to its root."""

from __future__ import annotations

from ..benchmark.core.documents import Result, TaskCard
from ..benchmark.results.layout import slug
from .entries import TaskKey, section_key


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
    """Return the path of a result's page, which lists its cases. It does not depend on boards."""
    task = slug(task_slug((result.task.name, result.task.version)))
    return f"results/{slug(result.editor.name)}/{section_key(result)}/{task}.html"


def facts_page(result: Result) -> str:
    """Return the path of the list of a task's cases, measured with the protocol of a result."""
    task = slug(task_slug((result.task.name, result.task.version)))
    return f"facts/{section_key(result)}/{task}.html"


def fact_page(result: Result, case: str) -> str:
    """Return the path of the page that shows one case for all methods.

    Args:
        result: a result with the case.
        case: name of the case, see :func:`.cases.case_name`.
    """
    return f"{facts_page(result).removesuffix('.html')}/{case}.html"


def method_anchor(name: str) -> str:
    """Return the id of a method's row in tables."""
    return f"m-{slug(name)}"
