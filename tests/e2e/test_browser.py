"""The site in Chromium: sorting, filters, downloads, keyboard use, accessibility, and no requests to other hosts."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest
from knbench.leaderboard.build import build_site

from tests.performance.records import write_board, write_run

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        missing = "needs Chromium, such as Debian's package chromium"
        if os.environ.get("KNBENCH_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    with playwright.sync_playwright() as engine:
        yield engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Six methods on four made-up tasks, one method without results on one task, and a limited run."""
    from knbench.benchmark.running.run_folder import finish

    folder = tmp_path_factory.mktemp("board")
    write_board(folder / "whole", 6, 4, 8)
    shutil.rmtree(folder / "whole" / "method-003" / "task-01")
    write_run(folder / "limited", 3, editor="method-000", task="task-00", limit=3)
    finish(folder / "limited")
    return build_site([folder], folder / "site").parent


@pytest.fixture
def visit(browser, site):
    """Open a page from disk. At the end, assert that there were no console messages and no requests to other hosts."""
    messages, requests, contexts = [], [], []

    def open_page(path, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 900}, "accept_downloads": True, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        context.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{site}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith((f"file://{site}/", "data:", "blob:"))] == []


FACTS = "table[data-name=facts]"


def column(page, key, table=FACTS):
    """Return the exported values of a column, top to bottom."""
    return page.eval_on_selector(
        table,
        "(t, key) => { const i = [...t.tHead.rows[0].cells].findIndex(c => c.dataset.key === key);"
        " return [...t.tBodies[0].rows].map(r => r.cells[i].dataset.export ?? r.cells[i].textContent.trim()); }",
        key,
    )


def numbers(page, key, table=FACTS):
    return [float(text) for text in column(page, key, table) if text]


def becomes(page, key, expected):
    """Return whether a column has the expected numbers within five seconds. A table is redrawn with a delay."""
    for _ in range(100):
        if numbers(page, key) == expected:
            return True
        page.wait_for_timeout(50)
    return False


OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > width + 1);
  return wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120));
})()"""
"""Elements that extend beyond the right edge of a page that scrolls sideways."""


def kinds_of_pages(site):
    """Return the path of one page of every kind."""
    return [
        "index.html", "about.html", "compare.html", "methods/method-002.html",
        *(next(site.glob(pattern)).relative_to(site).as_posix() for pattern in (
            "boards/*/task-00*success.html", "compare/*/*.html", "results/*/*/*.html", "tasks/*.html", "models/*.html",
        )),
    ]  # fmt: skip


def test_the_address_restores_the_order_of_a_column(visit):
    page = visit("success.html")
    before = numbers(page, "paraphrase")
    page.click(f"{FACTS} th[data-key=paraphrase]")
    assert becomes(page, "paraphrase", sorted(before, reverse=True))
    address = page.url.split("/")[-1]
    assert becomes(visit(address), "paraphrase", sorted(before, reverse=True))
    page.click(f"{FACTS} th[data-key=paraphrase]")
    assert becomes(page, "paraphrase", sorted(before))
    page.click(f"{FACTS} th[data-key=paraphrase]")
    assert becomes(page, "paraphrase", before)
    assert "#" not in page.url
    page.goto(page.url.split("#")[0] + "#" + address.split("#")[1])  # like following a link within the page
    assert becomes(page, "paraphrase", sorted(before, reverse=True))


def test_the_address_keeps_search_filters_and_columns(visit):
    page = visit("success.html")
    all_methods = column(page, "method")
    page.locator(".dt-search input").first.fill("method-00")
    assert column(page, "method") == all_methods
    page.locator(".dt-search input").first.fill("method-002")
    assert column(page, "method") == ["method-002"]
    page.locator(".dt-search input").first.fill("")

    page.get_by_role("button", name="Filter").first.click()
    page.locator("select.dtsb-data").select_option(label="Reliability")
    page.locator("select.dtsb-condition").select_option(">")
    page.locator("input.dtsb-value").fill("50")
    playwright.expect(page.locator(f"{FACTS} tbody tr")).not_to_have_count(
        len(all_methods)
    )  # DataTables waits for further input
    page.keyboard.press("Escape")
    kept = numbers(page, "reliability")
    assert 0 < len(kept) < len(all_methods)
    assert min(kept) > 50

    page.get_by_role("button", name="Columns").first.click()
    page.locator("button.buttons-columnVisibility", has_text="Symmetry").click()
    page.keyboard.press("Escape")
    assert page.locator(f"{FACTS} th[data-key=symmetry]").count() == 0
    again = visit(page.url.split("/")[-1])
    assert numbers(again, "reliability") == kept
    assert again.locator(f"{FACTS} th[data-key=symmetry]").count() == 0


def test_another_measure_keeps_the_state_and_shows_its_own_numbers(visit, site):
    page = visit("success.html")
    page.click(f"{FACTS} th[data-key=reliability]")
    assert becomes(page, "reliability", sorted(numbers(page, "reliability"), reverse=True))
    page.get_by_role("link", name="exact", exact=True).click()
    page.wait_for_url("**/exact.html*")
    assert page.url.endswith(page.url.split("exact.html")[1])
    with next((site / "data").glob("made-up-[!l]*/facts-exact.csv")).open() as stream:  # not of the limited run
        expected = [100 * float(row["value"]) for row in csv.DictReader(stream) if row["criterion"] == "reliability"]
    assert becomes(page, "reliability", [round(value, 1) for value in sorted(expected, reverse=True)])


def test_downloads_contain_the_visible_rows_and_columns(visit):
    page = visit("success.html")
    page.click(f"{FACTS} th[data-key=neighbourhood]")
    assert becomes(page, "neighbourhood", sorted(numbers(page, "neighbourhood"), reverse=True))
    page.locator(".dt-search input").first.fill("method-001")
    saved = {}
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).first.click()
        saved[name] = download.value.path().read_text()
    rows = list(csv.DictReader(saved["CSV"].splitlines()))
    assert rows == json.loads(saved["JSON"])
    assert [row["method"] for row in rows] == ["method-001"]
    keys = page.eval_on_selector(FACTS, "t => [...t.tHead.rows[0].cells].map(c => c.dataset.key)")
    assert list(rows[0]) == keys
    assert all([row[key] for row in rows] == column(page, key) for key in keys)


def test_a_column_can_be_sorted_with_the_keyboard(visit):
    page = visit("success.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.dataset.key") == "reliability":
            break
    page.keyboard.press("Enter")
    assert becomes(page, "reliability", sorted(numbers(page, "reliability"), reverse=True))
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline not in ("none", "")


def test_an_address_opens_its_case(visit, site):
    page = visit("methods/method-002.html")
    page.locator(".cases a").first.click()
    page.wait_for_url("**/results/**")
    assert page.locator("details.case[open]").count() == 1
    assert page.locator("details.case[open] td[data-label=Before]").first.is_visible()


def test_pages_work_without_scripts(visit):
    page = visit("index.html", java_script_enabled=False)
    assert page.locator(f"{FACTS} tbody tr").count() == 6
    assert page.get_by_role("link", name="exact", exact=True).is_visible()


def test_incomplete_and_limited_results_are_marked_and_not_ranked(visit, site):
    page = visit("index.html")
    phenomena = "table[data-name=phenomena]"
    assert column(page, "rank", phenomena)[-1] == ""
    assert column(page, "method", phenomena)[-1] == "method-003"
    assert page.locator(f"{phenomena} tbody tr").last.locator("td.rank").inner_text() == "1 of 2 tasks"
    limited = visit(next(site.glob("boards/*limit-3*/overview-success.html")).relative_to(site).as_posix())
    assert set(column(limited, "rank")) == {""}
    assert "limited to 3 cases, not ranked" in limited.content()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        pytest.param(390, "dark", marks=pytest.mark.long),
        pytest.param(1440, "light", marks=pytest.mark.long),
        (1440, "dark"),
    ],
)
def test_every_kind_of_page_is_accessible_and_fits_the_window(visit, site, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    found = {}
    for path in kinds_of_pages(site):
        page = visit(path, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
        if path == "index.html":
            page.get_by_role("button", name="Filter").first.click()
            page.wait_for_timeout(1000)  # until it has faded in
        violations = Axe().run(page, options={"preload": False}).response["violations"]
        found |= {
            (path, v["id"]): [node["html"][:200] for node in v["nodes"][:3]]
            for v in violations if v["impact"] in ("serious", "critical")
        }  # fmt: skip
        assert page.evaluate(OVERFLOW) == [], path
    assert found == {}
