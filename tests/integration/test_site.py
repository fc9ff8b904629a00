"""The site, read as a browser and a careless host would."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from knbench.benchmark.errors import KnbenchError
from knbench.benchmark.runner import run
from knbench.benchmark.settings import RunSettings
from knbench.benchmark.types import Case, EditRequest, Probe, Task
from knbench.editors.ft import FineTuning
from knbench.editors.none import NoEdit
from knbench.leaderboard.build import MARKER, build_site
from knbench.leaderboard.views import cell

HOSTILE = "<script>alert(1)</script>"


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
    return Task(name="hostile", version=1, kind="fact", criteria=names, cases=lambda: cases, **text)


@pytest.fixture
def runs(lm, tmp_path):
    run(lm, [NoEdit, FineTuning], [hostile_task()], tmp_path / "runs", RunSettings(new_tokens=3))
    return tmp_path / "runs"


class Page(HTMLParser):
    """Collects tags, links and text; complains of tags that are not closed."""

    VOID = ("meta", "link", "br", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.open, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_link_resolves_and_none_leaves_the_site(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    found = pages(site)
    assert {p.relative_to(site).as_posix() for p in found} >= {"index.html", "exact.html", "methods/ft.html"}
    for path, page in found.items():
        for link in page.links:
            if not link.startswith(("#", "data:")):
                assert re.match(r"^[\w./-]+$", link), link
                assert (path.parent / link).resolve().is_file(), f"{path}: {link}"


def test_text_from_results_is_shown_and_never_run(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    for path, page in pages(site).items():
        assert "script" not in page.tags, path
        assert HOSTILE in page.text or path.name == "about.html", path


def test_the_board_shows_the_numbers_of_the_results(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    front, exact = (pages(site)[site / name] for name in ("index.html", "exact.html"))
    assert "100.0" in exact.text  # the unedited model leaves every neighbour as it was
    assert "Symmetry" in front.text
    assert "s / edit" in front.text
    method = pages(site)[site / "methods/none.html"]
    assert "two <b>" not in method.text  # ids are for machines; people see the edit
    assert method.text.count("The capital of France is …") == 2


def test_a_number_is_shown_with_its_interval_or_without_one():
    row = {"value": 0.256, "low": 0.1, "high": 0.5, "interval": "wilson", "cases": 9, "probes": 18}
    shown = cell(row, "success")
    assert (shown.text, shown.low, shown.high, shown.width) == ("25.6", "10.0", "50.0", 25.6)
    bare = cell({**row, "low": None, "high": None, "interval": "none"}, "success")
    assert (bare.text, bare.low, bare.width) == ("25.6", "", 25.6)
    assert cell({**row, "interval": "bca"}, "magnitude").text == "0.256"
    assert cell(None, "success") is None


def test_a_site_is_replaced_whole_and_another_folder_never(runs, tmp_path):
    site = build_site([runs], tmp_path / "site").parent
    (site / "stale.html").write_text("old")
    build_site([runs], site)
    assert not (site / "stale.html").exists()
    assert (site / MARKER).exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(KnbenchError, match="no site of knbench"):
        build_site([runs], other)
    assert (other / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "runs", "site"]


def test_a_models_page_shows_its_analyses_as_images(runs, tmp_path, lm):
    from knbench.benchmark.analysis import Part, analyse
    from knbench.benchmark.progress import Reporter
    from knbench.benchmark.provenance import describe_model

    neurons = {"neurons": [[1, 2]], "tau": 0.7, "r1_squared": 0.5, "prompts": [1]}
    parts = [Part(f"capital: {n}", "capital", "fact", lambda: neurons) for n in range(2)]
    from knbench.benchmark.localisation import overlap, summarise_groups

    analyse(
        "localise", lm, describe_model(lm), {}, parts,
        lambda rows: {"tasks": summarise_groups(rows, 4), "overlap": overlap(rows)}, tmp_path / "analyses", Reporter(),
    )  # fmt: skip
    site = build_site([runs, tmp_path / "analyses"], tmp_path / "site").parent
    (page,) = (site / "models").glob("*.html")
    text = page.read_text()
    images = re.findall(r'<img src="\.\./([^"]+)" alt="[^"]+"', text)
    assert len(images) == 3
    assert all((site / image).read_text().startswith("<?xml") for image in images)
    assert (page.parent / re.search(r'href="\.\./models/([^"]+\.json)"', text)[1]).is_file()


def test_two_results_of_one_row_are_refused(runs, tmp_path, lm):
    run(lm, [NoEdit], [hostile_task()], tmp_path / "again", RunSettings(new_tokens=3))
    with pytest.raises(KnbenchError, match="two results of editor 'none'"):
        build_site([runs, tmp_path / "again"], tmp_path / "site")


def test_other_seeds_and_limits_and_splits_stand_in_tables_of_their_own(runs, tmp_path, lm):
    run(lm, [NoEdit], [hostile_task()], tmp_path / "again", RunSettings(new_tokens=3, limit=1))
    run(lm, [NoEdit], [hostile_task()], tmp_path / "whole", RunSettings(new_tokens=3, split="all"))
    site = build_site([runs, tmp_path / "again", tmp_path / "whole"], tmp_path / "site").parent
    text = (site / "index.html").read_text()
    assert text.count('<section class="board"') == 3
    assert "limited to 1" in text
    assert text.count("tuning cases included") == 1
    assert text.count("tuning cases left out") == 2
