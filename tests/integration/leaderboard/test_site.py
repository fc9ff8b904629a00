"""The built site: valid pages, working links, escaped text, and the numbers of the results."""

from __future__ import annotations

import base64
import doctest
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import html5lib
import numpy as np
import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Task
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.results.comparison import group_by_task
from knbench.benchmark.results.edit_scores import score_difference
from knbench.benchmark.results.runs import find_runs
from knbench.benchmark.running.run_folder import finish
from knbench.editors.ft import FineTuning
from knbench.editors.none import NoEdit
from knbench.leaderboard import cases, cells, pages, render
from knbench.leaderboard.build import MARKER, build_site
from knbench.leaderboard.cells import Score, cell
from knbench.leaderboard.comparisons import DRAW_STEPS

from tests.conftest import called
from tests.files import run_folders as run
from tests.performance.records import write_board, write_run

HOSTILE = "<script>alert(1)</script>"
BYTES_PER_RESULT = 56_000
"""What a further result of three cases may add to a site, with its part of tables, facts and exports."""


def hostile_task():
    request = EditRequest("The capital of {} is", f"Canada {HOSTILE}", "Rome", "Ottawa")
    probes = (
        Probe("reliability", "completion", request.text, "Rome", "Ottawa", "new"),
        Probe("paraphrase", "completion", f"{HOSTILE} is", "Rome", f"Ottawa {HOSTILE}", "new"),
        Probe("symmetry", "minimal_pair", "", "Rome is it.", "Rome it is.", "new"),
        Probe("neighbourhood", "completion", "The capital of France is", "Paris", "Rome", "unchanged"),
    )
    cases = (Case("one", request, probes), Case("two <b>", request, probes))
    text = {"title": HOSTILE, "description": "d", "licence": "l", "citation": HOSTILE, "source": "s", "relation": "r"}
    names = ("reliability", "paraphrase", "symmetry", "neighbourhood")
    return Task(name="hostile", version=1, kind="fact", criteria=names, cases=cases, **text)


@pytest.fixture
def runs(lm, tmp_path):
    run(lm, [NoEdit, FineTuning], [hostile_task()], tmp_path / "runs", RunSettings(new_tokens=3))
    return tmp_path / "runs"


SCRIPTS = {"site.js", "board.js", "charts.js", "compare.js", "facts.js"}


class Page:
    """A page parsed by html5lib, which raises on every markup error."""

    def __init__(self, text):
        document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
        elements = [e for e in document.iter() if isinstance(e.tag, str)]
        self.links = [v for e in elements for key, v in e.items() if key in ("href", "src")]
        self.scripts = [e for e in elements if e.tag == "script"]
        self.handlers = [key for e in elements for key, _ in e.items() if key.startswith("on")]
        self.policy = [e.get("content") for e in elements if e.get("http-equiv") == "Content-Security-Policy"]
        self.ids = [e.get("id") for e in elements if e.get("id")]
        self.text = "".join(document.itertext())


def parse_pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_pages_are_valid_and_every_link_resolves_within_the_site(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    found = parse_pages(site)
    names = {p.relative_to(site).as_posix() for p in found}
    assert names >= {
        "index.html",
        "exact.html",
        "methods/ft.html",
        "compare.html",
        "about.html",
        "facts.html",
        "matrix.html",
        "tasks/hostile-v1.html",
    }
    assert sum("facts/" in name for name in names) == 3  # two cases and their list
    for path, page in found.items():
        assert len(page.ids) == len(set(page.ids)), path
        for link in page.links:
            if not link.startswith("data:"):
                file, _, anchor = link.partition("#")
                anchor = "" if "=" in anchor else anchor  # the state of a page
                assert re.match(r"^[\w./-]*$", file), link
                target = (path.parent / file).resolve() if file else path
                assert target.is_file(), f"{path}: {link}"
                assert not anchor or anchor in found[target].ids, f"{path}: {link}"


def test_text_from_results_is_escaped(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    for path, page in parse_pages(site).items():
        assert {script.get("src").split("/")[-1] for script in page.scripts} <= SCRIPTS, path
        assert not any(script.text for script in page.scripts)
        assert page.handlers == []
        (policy,) = page.policy
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert HOSTILE in page.text or path.name in ("compare.html", "matrix.html", "facts.html"), path
    scripts = [path.read_text() for path in (site / "data").rglob("*.js")]
    assert any("alert(1)" in script for script in scripts)
    for script in scripts:  # one call with JSON
        name, value = re.fullmatch(r'knbench\.give\(("(?:[^"\\]|\\.)*"),(.*)\);\n', script).groups()
        assert json.loads(name)
        assert json.loads(value) is not None
        assert script.isascii()


def test_the_board_shows_the_numbers_of_the_results(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    found = parse_pages(site)
    front, exact = (found[site / name] for name in ("index.html", "exact.html"))
    assert "100" in exact.text  # the editor none leaves every neighbour unchanged
    assert "Symmetry" in found[site / "success.html"].text
    assert "s / edit" in front.text
    (result,) = (site / "results" / "none").rglob("*.html")
    assert "two <b>" not in found[result].text  # case ids are not shown


def test_a_fact_page_shows_what_every_method_made_the_model_say(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    pages_of_cases = sorted((site / "facts").glob("*/hostile-v1/*.html"))
    assert len(pages_of_cases) == 2
    (record, *_) = (json.loads(line) for line in next((runs / "ft").rglob("records.jsonl")).open())
    text = Page(pages_of_cases[0].read_text()).text
    rows = pages_of_cases[0].read_text().split("<tbody>")[1].split("</tbody>")[0]
    assert [rows.count(f'id="m-{name}"') for name in ("none", "ft")] == [1, 1]
    said = record["probes"][0]["after"]["generated"].strip()
    assert said in text
    assert text.count("The capital of France is …") == 1  # methods with equal answers share a line


def test_a_cell_shows_a_number_with_its_interval():
    score = Score(value=0.256, low=0.1, high=0.5, interval="wilson", cases=9, probes=18)
    shown = cell(score, share=True)
    assert (shown.text, shown.low, shown.high, shown.bar, shown.value) == ("25.6", "10.0", "50.0", 25.6, 0.256)
    assert shown.note == "9 cases, 18 probes; 95% interval, Wilson"
    bare = cell(replace(score, low=None, high=None, interval="none"), share=True)
    assert (bare.text, bare.low, bare.bar) == ("25.6", "", 25.6)
    assert bare.note.endswith("no interval")
    assert cell(replace(score, interval="bca"), share=False).text == "0.256"
    assert cell(None, share=True) is None


@pytest.mark.parametrize("module", [cases, cells, pages])
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0


def test_a_site_is_replaced_completely_and_other_folders_are_refused(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    (site / "stale.html").write_text("old")
    build_site([runs], site)
    assert not (site / "stale.html").exists()
    assert (site / MARKER).exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(KnbenchError, match="not a site of knbench"):
        build_site([runs], other)
    assert (other / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "runs", "site"]


def test_a_site_does_not_depend_on_the_number_of_processes(runs, tmp_path, monkeypatch):
    one = build_site([runs], tmp_path / "one").parent
    monkeypatch.setattr(render, "MIN_RESULTS_FOR_PROCESSES", 1)
    several = build_site([runs], tmp_path / "several").parent
    found = [{path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}
             for site in (one, several)]  # fmt: skip
    assert len(found[0]) > 20
    assert found[0] == found[1]


def test_compared_values_and_draws_are_those_of_the_tables(tmp_path):
    for name, skill in (("adept", 0.9), ("bungler", 0.1)):
        write_run(tmp_path / "runs" / name, 40, editor=name, skill=skill)
        finish(tmp_path / "runs" / name)
    site = build_site([tmp_path / "runs"], tmp_path / "site").parent

    def given(path):
        return json.loads(path.read_text().split(",", 1)[1].removesuffix(");\n"))

    (folder,) = (site / "data").glob("*/methods")
    data = {name: given(folder / f"{name}.js") for name in ("adept", "bungler")}
    shared = given(folder.parent / "section.js")
    groups = group_by_task(find_runs([tmp_path / "runs"]))
    values = [group.case_values for group in groups]
    expected = score_difference(values, "adept", "bungler")
    a, b = (
        np.frombuffer(base64.b64decode(data[name]["draws"]["facts"]), "<u2") / DRAW_STEPS
        for name in ("adept", "bungler")
    )
    low, high = np.quantile(a - b, (0.025, 0.975))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-3)
    assert data["adept"]["scores"]["facts"][0] == pytest.approx(expected.a, abs=1e-4)
    (task,) = shared["tasks"]
    assert len(task["cases"]) == 40
    assert all((site / page).is_file() for page, _ in task["cases"])
    stored = groups[0].values("adept", "reliability", "success")
    assert data["adept"]["values"]["made-up"]["reliability"] == [stored[f"case-{n}"] for n in range(40)]


def test_files_of_a_site_grow_linearly_with_methods(tmp_path):
    sizes = []
    for count in (8, 16):
        write_board(tmp_path / f"runs-{count}", count, 2, 3, variants=1)
        site = build_site([tmp_path / f"runs-{count}"], tmp_path / f"site-{count}").parent
        files = [path for path in site.rglob("*") if path.is_file() and path.name != "preview.png"]
        sizes.append((len(files), sum(path.stat().st_size for path in files)))
    (few, small), (many, large) = sizes
    assert many - few == 8 * (2 + 1 + 1)  # of each method: two results, its page, and its data
    assert large < 2 * small
    assert (large - small) / (8 * 2) < BYTES_PER_RESULT


def test_a_board_of_sequential_edits_shows_retention(lm, tmp_path):
    settings = RunSettings(new_tokens=3, sequential=2, checkpoints=(1,))
    run(lm, [NoEdit, FineTuning], [hostile_task()], tmp_path / "runs", settings)
    site = build_site([tmp_path / "runs"], tmp_path / "site").parent
    front = (site / "index.html").read_text()
    chart = front[front.index("chart curves") :].split("</figure>")[0]
    assert all(f"{name}, 2 edits:" in chart for name in ("none", "ft"))
    assert "chart curves" not in (site / "magnitude.html").read_text()
    matrix = (site / "matrix.html").read_text()
    assert "checkpoint of a sequence" not in matrix  # none after 10 edits
    assert "--sequential 10" in matrix


def test_a_models_page_shows_its_analyses_as_images(runs, tmp_path, lm):
    from knbench.benchmark.analyses.base import AnalysisPart, run_analysis
    from knbench.benchmark.core.progress import Reporter
    from knbench.benchmark.running.provenance import describe_model

    neurons = {"neurons": [[1, 2]], "tau": 0.7, "r1_squared": 0.5, "prompts": [1]}
    parts = [AnalysisPart(f"capital: {n}", "capital", "fact", lambda: neurons) for n in range(2)]
    from knbench.benchmark.analyses.localisation import neuron_overlap, summarise_groups

    run_analysis(
        "localise", lm, describe_model(lm), {}, parts,
        lambda rows: {"tasks": summarise_groups(rows, 4), "overlap": neuron_overlap(rows)},
        tmp_path / "analyses", Reporter(),
    )  # fmt: skip
    site = build_site([runs, tmp_path / "analyses"], tmp_path / "site").parent
    (page,) = (site / "models").glob("*.html")
    text = page.read_text()
    images = re.findall(r'<img src="\.\./([^"]+)" alt="[^"]+"', text)
    assert len(images) == 3
    assert all((site / image).read_text().startswith("<?xml") for image in images)
    assert (page.parent / re.search(r'href="\.\./models/([^"]+\.json)"', text)[1]).is_file()


def test_two_results_of_the_same_row_are_refused(runs, tmp_path, lm):
    run(lm, [NoEdit], [hostile_task()], tmp_path / "again", RunSettings(new_tokens=3))
    with pytest.raises(KnbenchError, match="two results of editor 'none'"):
        build_site([runs, tmp_path / "again"], tmp_path / "site")


def test_limits_and_splits_have_their_own_tables(runs, tmp_path, lm):
    run(lm, [NoEdit], [hostile_task()], tmp_path / "again", RunSettings(new_tokens=3, limit=1))
    run(lm, [NoEdit], [hostile_task()], tmp_path / "whole", RunSettings(new_tokens=3, split="all"))
    site = build_site([runs, tmp_path / "again", tmp_path / "whole"], tmp_path / "site").parent
    front = html5lib.parse((site / "index.html").read_text(), namespaceHTMLElements=False)
    menus = {menu.find("summary/small").text: menu.findall(".//a") for menu in front.findall(".//nav/details")}
    tabs = menus["Regime"]
    assert len(tabs) == 3
    assert sum("limited to 1 cases, not ranked" in tab.text for tab in tabs) == 1
    assert sum("tuning cases included" in tab.text for tab in tabs) == 1
    for tab in tabs:
        page = (site / tab.get("href")).read_text()
        about = page[page.index("About this table") :]
        assert ("limited to 1 cases, not ranked" in about) == ("limited" in tab.text)


def test_feed_sitemap_and_preview(runs, tmp_path, capsys):
    site = tmp_path / "site"
    status, _, _ = called(capsys, "site", "build", runs, "--output", site, "--url", "https://example.org/board")
    assert status == 0
    atom = "{http://www.w3.org/2005/Atom}"
    feed = ElementTree.parse(site / "feed.xml").getroot()
    entries = feed.findall(f"{atom}entry")
    assert len(entries) == 2
    assert all(HOSTILE in entry.find(f"{atom}title").text for entry in entries)
    for entry in entries:
        link = entry.find(f"{atom}link").get("href")
        assert (site / link.removeprefix("https://example.org/board/")).is_file()
    addresses = [element.text for element in ElementTree.parse(site / "sitemap.xml").getroot().iter() if element.text]
    pages_of_site = list(site.rglob("*.html"))
    assert len([a for a in addresses if a.startswith("https://example.org/board/")]) == len(pages_of_site)
    assert (site / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert 'property="og:image" content="https://example.org/board/preview.png"' in (site / "index.html").read_text()
    build_site([runs], site)
    assert not (site / "sitemap.xml").exists()  # it needs an address
    assert called(capsys, "site", "build", runs, "--output", site, "--url", "example.org")[0] == 2
