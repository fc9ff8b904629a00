"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor

README = (Path(__file__).parents[2] / "README.md").read_text()


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


def test_every_file_that_the_readme_names_exists():
    root = Path(__file__).parents[2]
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / link).exists(), link


def test_every_criterion_and_measure_is_explained():
    from knbench.benchmark.scoring.criteria import CRITERIA, MEASURES

    for name in CRITERIA:
        assert f"| {name} |" in README
    for name in MEASURES:
        assert f"| `{name}` |" in README
