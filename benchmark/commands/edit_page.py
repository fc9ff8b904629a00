"""The page of a comparison that ``knbench edit --html`` writes: one file without scripts and without further files."""

from __future__ import annotations

from importlib.resources import files

from ..api.questions import GROUPS
from ..api.text import format_count, format_duration, format_probability, quoted, token_names
from ..api.trial import Comparison
from ..core.version import __version__


def comparison_page(comparison: Comparison) -> str:
    """Return a comparison as an HTML document. Texts of the model are escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=format_count, duration=format_duration, probability=format_probability, names=token_names, quoted=quoted
    )
    template = files(__package__).joinpath("edit_page.html").read_text(encoding="utf-8")
    groups = [
        (title, [exchange for exchange in comparison.exchanges if exchange.question.group == group])
        for group, title in GROUPS.items()
    ]
    return environment.from_string(template).render(
        comparison=comparison,
        request=comparison.plan.request,
        groups=[(title, exchanges) for title, exchanges in groups if exchanges],
        version=__version__,
    )
