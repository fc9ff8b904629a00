"""The documentation site is built without warnings and without the network, and its pages agree with the code."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.shell_completion import BashComplete

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. In strict mode, a warning ends the build."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://localhost:9", "https_proxy": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.slow
def test_the_site_has_a_page_per_document_and_loads_nothing_from_other_hosts(site):
    for page in PAGES:
        assert site.joinpath(page.relative_to(ROOT / "docs").with_suffix(".html")).exists()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]*rel=[\"']?stylesheet[^>]*href=[\"']?([^\"' >]+)", text)
        assert [url for url in loaded if "//" in url] == [], page


@pytest.mark.slow
def test_the_reference_is_that_of_the_code(site):
    from knbench.benchmark.core import registry
    from knbench.benchmark.models.families import known_families
    from knbench.benchmark.scoring.criteria import CRITERIA, MEASURES

    def text(name):
        html = site.joinpath("reference", f"{name}.html").read_text(encoding="utf-8")
        return re.sub(r"<[^>]+>", "", html)

    assert [name for name in registry.registered(registry.COMMANDS) if f"knbench {name} [" not in text("cli")] == []
    assert {flag for flag in ("--known-by", "--save", "--grid") if flag not in text("cli")} == set()
    assert [name for name in registry.registered(registry.EDITORS) if name not in text("editors")] == []
    assert [name for name in known_families() if name not in text("families")] == []
    assert [name for name in registry.tasks() if name not in text("tasks")] == []
    assert [name for name in (*CRITERIA, *MEASURES) if name not in text("measures")] == []
    for name in ("evaluate", "load_model", "load_results", "EditedModel", "RunConfig"):
        assert name in text("python")
    assert [
        role for page in site.rglob("*.html") for role in re.findall(r":(?:class|meth|func):<", page.read_text())
    ] == []


def test_every_page_is_in_the_navigation_and_has_one_title():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert str(page.relative_to(ROOT / "docs")) in config
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert len(re.findall(r"^# ", prose, flags=re.MULTILINE)) == 1, page


def test_commands_of_the_documents_exist_with_their_flags():
    """Each ``knbench COMMAND --flag`` in a code block is a command with this flag."""
    import click
    from knbench.benchmark.commands.main import load_command
    from knbench.benchmark.core import registry

    commands = {name: load_command(point) for name, point in registry.registered(registry.COMMANDS).items()}
    for page in (README, *PAGES):
        blocks = re.findall(
            r"^\s*```sh\n(.*?)^\s*```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?<![\w/.'\[-])knbench ([a-z-]+[^#&|>]*)", line):
                words = call.split()
                assert words[0] in commands, f"{page.name}: {line}"
                command = commands[words[0]]
                if isinstance(command, click.Group):
                    command = command.commands[words[1]]
                known = {flag for parameter in command.params for flag in (*parameter.opts, "--help")}
                flags = {word.split("=")[0] for word in words if word.startswith("--")}
                assert flags <= known, f"{page.name}: {line}"


def test_the_shell_completes_commands_and_flags():
    from knbench.benchmark.commands.main import knbench as group

    complete = BashComplete(group, {}, "knbench", "_KNBENCH_COMPLETE")
    assert [item.value for item in complete.get_completions([], "loc")] == ["localise"]
    assert {item.value for item in complete.get_completions(["run"], "--known")} == {"--known-only", "--known-by"}


def test_a_diagram_is_shown_as_text():
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    from tools import docs_site

    assert doctest.testmod(docs_site) == (0, 1)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/x.md"))
    kept = "[a](../edit-score.md#b) [c](https://d.org)\n\n```text\n[e](../../README.md)\n```\n"
    assert docs_site.on_page_markdown(kept, page) == kept
    assert docs_site.on_page_markdown("see [`f`](../../README.md#usage).", page) == "see `f`."
    with pytest.raises(Exception, match=r"docs/how-to/x.md: the link to ../../no.md leads to no file"):
        docs_site.on_page_markdown("[g](../../no.md)", page)
    html = "<p>A :class:<code>~.modules.ModelModules</code>::</p>"
    assert docs_site.on_page_content(html) == "<p>A <code>ModelModules</code>:</p>"
