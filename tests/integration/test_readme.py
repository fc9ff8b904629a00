"""The code, links and tables of the README agree with the project."""

from __future__ import annotations

import re
from pathlib import Path

from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_method_of_the_readme_is_an_editor(lm):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    namespace = {}
    exec(code, namespace)
    editor, source = build_editor(namespace["Halve"], lm, {"layer": "1"})
    assert source == "generic; user set layer"
    before = lm.weight_hash()
    edit = editor.edit(lm, [EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")])
    name = lm.mlp_weight_name(1)
    with edit.applied(lm):
        assert (lm.parameter(name) * 2 != 0).any()
        assert lm.weight_hash() != before
    assert lm.weight_hash() == before


def test_every_link_of_the_documents_leads_to_a_file():
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_defines_every_criterion_and_measure():
    from knbench.benchmark.scoring.criteria import CRITERIA, MEASURES

    for name in CRITERIA:
        assert f"| {name} |" in README
    for name in MEASURES:
        assert f"| `{name}` |" in README
