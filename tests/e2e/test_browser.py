"""The site in Chromium: every interaction, keyboard use, accessibility, and no requests to other hosts."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from knbench.benchmark.results.comparison import group_by_task
from knbench.benchmark.results.edit_scores import score_difference
from knbench.benchmark.results.runs import find_runs
from knbench.leaderboard.build import build_site

from tests.performance.records import write_board, write_run

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")

METHODS = 20
KINDS = ("weights", "memory", "context", "control")
ANALYSES = Path(__file__).parents[2] / "docs" / "analyses"


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


def declare(folder):
    """Give each made-up method a kind, needs and costs, as results of the current version state them."""
    for path in folder.rglob("result.json"):
        document = json.loads(path.read_text())
        number = int(document["editor"]["name"].split("-")[1])
        document["editor"] |= {"kind": KINDS[number % 4], "needs_subject": number % 3 == 0, "trains": number % 5 == 1}
        document["cost"] |= {"bytes_per_fact": 1000.0 * (number + 1)} if number % 4 == 1 else {}
        path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Twenty methods on four made-up tasks, one method without results on one task, and a limited run."""
    from knbench.benchmark.running.run_folder import finish

    folder = tmp_path_factory.mktemp("board")
    write_board(folder / "whole", METHODS, 4, 8, variants=4)
    declare(folder / "whole")
    shutil.rmtree(folder / "whole" / "method-003" / "task-01")
    write_run(folder / "limited", 3, editor="method-000", task="task-00", limit=3)
    finish(folder / "limited")
    return build_site([folder, ANALYSES], folder / "site").parent


@dataclass
class Watch:
    """What pages did: messages on the console and requests."""

    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser, site):
    """Open a page from disk. At the end, assert that there were no console messages and no requests to other hosts."""
    watch, contexts = Watch(), []

    def open_page(path, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 900}, "accept_downloads": True, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: watch.messages.append(message.text))
        page.on("pageerror", lambda error: watch.messages.append(str(error)))
        context.on("request", lambda request: watch.requests.append(request.url))
        page.goto(f"file://{site}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watch.messages == []
    assert [url for url in watch.requests if not url.startswith((f"file://{site}/", "data:", "blob:"))] == []


ROWS = "table.data tbody tr:not(.details):not([hidden])"


def column(page, key):
    """Return the texts of a column of the visible rows, top to bottom."""
    return page.evaluate(
        """(key) => {
          const table = document.querySelector("table.data");
          const i = [...table.tHead.rows[0].cells].findIndex(c => c.dataset.key === key);
          return [...table.tBodies[0].rows].filter(r => !r.hidden && !r.classList.contains("details"))
            .map(r => (r.cells[i].querySelector("a, b") ?? r.cells[i]).textContent.trim());
        }""",
        key,
    )


def numbers(page, key):
    return [float(text) for text in column(page, key) if text != "\N{EN DASH}"]


def sort(page, key):
    page.click(f"table.data th[data-key={key}] button.sort")


# --- the first screen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "rows"), [((1440, 900), 15), ((390, 844), 8)])
def test_the_first_screen_shows_many_methods_in_one_line_each(visit, size, rows):
    page = visit("index.html", viewport={"width": size[0], "height": size[1]})
    boxes = page.eval_on_selector_all(
        ROWS, "rows => rows.map(r => { const b = r.getBoundingClientRect(); return [b.top, b.bottom, b.height]; })"
    )
    assert sum(bottom <= size[1] for _, bottom, _ in boxes) >= rows
    assert max(height for _, _, height in boxes) < 40
    for key in ("rank", "method", "edit_score", "direct", "wording", "inverse"):
        box = page.locator(f"table.data th[data-key={key}]").bounding_box()
        assert box["x"] >= 0, key
        assert box["x"] + box["width"] <= size[0], key
    for menu in page.locator("nav.bar summary").all():
        assert menu.bounding_box()["x"] + menu.bounding_box()["width"] <= size[0]


def test_menus_lead_to_other_tables_and_keep_the_state(visit, site):
    page = visit("index.html")
    sort(page, "edit_score")
    page.locator("nav.bar summary", has_text="Measure").click()
    page.get_by_role("link", name="exact", exact=True).click()
    page.wait_for_url("**/exact.html*")
    assert "sort=edit_score" in page.url
    page.goto(page.url.split("#")[0])
    page.locator("nav.bar summary", has_text="Kind").click()
    page.get_by_role("link", name="Facts", exact=True).nth(1).click()  # the first one leads to the fact pages
    page.locator("nav.bar summary", has_text="Task").click()
    page.get_by_role("link", name="Made-up task 0").click()
    assert page.locator("h2").first.inner_text() == "Made-up task 0"
    with next((site / "data").glob("made-up-[!l]*/task-00-v1.csv")).open() as stream:  # not of the limited run
        rows = [row for row in csv.DictReader(stream) if row["measure"] == "exact"]
    expected = {row["method"]: 100 * float(row["value"]) for row in rows if row["criterion"] == "reliability"}
    shown = dict(zip(column(page, "method"), numbers(page, "reliability"), strict=True))
    assert shown == {method: float(f"{value:.0f}") for method, value in expected.items()}


def test_a_menu_closes_with_escape_and_with_a_click_elsewhere(visit):
    page = visit("index.html")
    menu = page.locator("nav.bar details").first
    menu.locator("summary").click()
    assert menu.get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert menu.get_attribute("open") is None
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    menu.locator("summary").click()
    page.locator("h1").click()
    assert menu.get_attribute("open") is None


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_address_keeps_order_search_filters_and_columns(visit):
    page = visit("index.html")
    before = numbers(page, "gain")
    sort(page, "gain")
    assert numbers(page, "gain") == sorted(before, reverse=True)
    assert page.locator("th[data-key=gain]").get_attribute("aria-sort") == "descending"
    sort(page, "gain")
    assert numbers(page, "gain") == sorted(before)
    page.locator("#tools input").first.fill("gain>20 method")
    kept = numbers(page, "gain")
    assert 0 < len(kept) < len(before)
    assert min(kept) > 20
    page.locator("#tools summary", has_text="Columns").click()
    page.get_by_role("checkbox", name="Neighbourhood kept").check()
    page.get_by_role("checkbox", name="s / edit").uncheck()
    page.keyboard.press("Escape")
    address = page.url.split("/")[-1]
    again = visit(address)
    assert numbers(again, "gain") == kept
    assert again.locator("th[data-key=kept_neighbourhood]").is_visible()
    assert again.locator("th[data-key=seconds]").is_hidden()
    page.locator("#tools input").first.fill("")
    sort(page, "gain")
    assert numbers(page, "gain") == before
    page.goto(page.url.split("#")[0] + "#" + address.split("#")[1])  # like following a link within the page
    assert numbers(page, "gain") == kept


def test_methods_are_filtered_by_kind_and_by_what_they_need(visit):
    page = visit("index.html")
    page.locator("#tools summary", has_text="Filter").click()
    page.get_by_label("Memory", exact=True).check()
    assert set(column(page, "method")) == {f"method-{n:03}" for n in range(METHODS) if n % 4 == 1}
    page.get_by_label("No subject needed").check()
    kept = {f"method-{n:03}" for n in range(METHODS) if n % 4 == 1 and n % 3}
    assert set(column(page, "method")) == kept
    assert page.locator(".pt:not(.out)").count() == sum(
        name in label for label in page.eval_on_selector_all(".pt", "p => p.map(x => x.ariaLabel)") for name in kept
    )
    page.get_by_label("No training").check()
    assert set(column(page, "method")) == {
        f"method-{n:03}" for n in range(METHODS) if n % 4 == 1 and n % 3 and n % 5 != 1
    }
    assert "without=subject,training" in page.url.replace("%2C", ",")
    assert "of 20 methods" in page.get_by_role("status").inner_text()


def test_a_row_opens_with_its_remaining_numbers(visit):
    page = visit("index.html")
    row = page.locator(ROWS).nth(1)
    row.locator("button.more").click()
    details = page.locator("tr.details")
    assert row.locator("button.more").get_attribute("aria-expanded") == "true"
    texts = details.locator("dt").all_inner_texts()
    assert {"Neighbourhood kept", "S", "Failed"} <= set(texts)
    assert details.get_by_text("Made-up numbers").is_visible()
    name = column(page, "method")[1]
    assert f"rows={name}" in page.url
    row.locator("td.number").first.click()
    assert page.locator("tr.details").count() == 0


def test_a_long_table_is_sorted_completely(visit, site):
    """The first rows move at once and the others when the browser is idle, which a download does not wait for."""
    head, rest = (site / "index.html").read_text().split("<tbody>")
    rows, tail = rest.split("</tbody>")
    copies = [rows.replace('id="m-', f'id="m-{n}-').replace(">method-", f">{n}-method-") for n in range(4)]
    (site / "long.html").write_text(f"{head}<tbody>{''.join(copies)}</tbody>{tail}")
    page = visit("long.html")
    page.evaluate("() => { window.requestIdleCallback = (work) => setTimeout(work, 300); }")
    before = numbers(page, "gain")
    assert len(before) == 4 * METHODS
    sort(page, "gain")
    assert numbers(page, "gain")[:40] == sorted(before, reverse=True)[:40]
    page.locator("#tools summary", has_text="Download").click()
    with page.expect_download() as download:
        page.locator("#tools").get_by_role("button", name="JSON").click()
    saved = json.loads(download.value.path().read_text())
    assert [float(row["gain"]) for row in saved] == sorted(before, reverse=True)
    page.keyboard.press("Escape")
    sort(page, "gain")
    page.wait_for_timeout(1500)
    assert numbers(page, "gain") == sorted(before)
    (site / "long.html").unlink()


def test_downloads_contain_the_visible_rows_and_columns(visit):
    page = visit("index.html")
    sort(page, "gain")
    page.locator("#tools input").first.fill("method-00")
    page.locator(ROWS).first.locator("button.more").click()
    saved = {}
    page.locator("#tools summary", has_text="Download").click()
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.locator("#tools").get_by_role("button", name=name).click()
        saved[name] = download.value.path().read_text()
    rows = list(csv.DictReader(saved["CSV"].splitlines()))
    assert rows == json.loads(saved["JSON"])
    assert [row["method"] for row in rows] == column(page, "method")
    assert [row["gain"] for row in rows] == column(page, "gain")
    assert list(rows[0])[:3] == ["rank", "method", "edit_score"]
    assert "kept_neighbourhood" not in rows[0]


def test_the_table_is_used_with_the_keyboard_alone(visit):
    page = visit("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"

    def tab_to(test):
        for _ in range(120):
            page.keyboard.press("Tab")
            if page.evaluate(f"(e => {test})(document.activeElement)"):
                return
        raise AssertionError(test)

    tab_to("e.closest('th')?.dataset.key === 'gain' && e.className === 'sort'")
    before = numbers(page, "gain")
    page.keyboard.press("Enter")
    assert numbers(page, "gain") == sorted(before, reverse=True)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") not in ("none", "")
    tab_to("e.className === 'more'")
    page.keyboard.press("Enter")
    assert page.locator("tr.details").count() == 1
    tab_to("e.classList.contains('pt')")
    page.keyboard.press("Enter")
    assert page.locator(".parallel").count() == 1


def test_definitions_open_in_place_with_an_example(visit):
    page = visit("index.html")
    page.locator("th[data-key=direct] a.q").click()
    box = page.locator("#definition")
    assert "Gain on reliability" in box.inner_text()
    assert "Example" in box.inner_text()
    page.keyboard.press("Escape")
    assert box.is_hidden()
    page.locator("th[data-key=direct] a.q").click()
    box.get_by_role("link", name="The whole case").click()
    page.wait_for_url("**/facts/**")


def test_the_box_of_explanations_stays_closed(visit):
    page = visit("index.html")
    assert page.locator("#how p").first.is_visible()
    page.locator("#how summary").click()
    page.wait_for_timeout(100)
    page.reload()
    assert page.locator("#how p").first.is_hidden()


# --- figures -----------------------------------------------------------------------------------------------------


def test_a_point_chooses_its_row_and_up_to_four_methods_are_drawn_over_all_criteria(visit):
    page = visit("index.html")
    labels = page.eval_on_selector_all("[data-chart=gain] .pt", "points => points.map(p => p.ariaLabel)")
    assert len(labels) == METHODS
    assert labels[0].startswith(f"{column(page, 'method')[0]}: edit score ")
    for number in range(5):
        page.locator("[data-chart=gain] .pt").nth(number).dispatch_event("click")
    assert page.locator("tr.picked").count() == 4
    assert page.locator(".parallel .line").count() == 4
    drawn = page.locator(".parallel").get_attribute("aria-label")
    assert f"Gain {float(column(page, 'gain')[4]):g}," in drawn
    page.get_by_role("link", name="Is the difference between").click()
    page.wait_for_url("**/compare.html*")
    assert page.locator(".verdict").is_visible()


def test_costs_are_drawn(visit):
    page = visit("index.html")
    assert page.locator("[data-chart=seconds] .pt").count() == METHODS
    assert page.locator("[data-chart=bytes] .pt").count() == METHODS // 4


# --- facts -------------------------------------------------------------------------------------------------------


def test_a_fact_is_found_and_shows_what_each_method_made_the_model_say(visit):
    page = visit("facts.html")
    page.locator("#search-facts").fill("task 1")
    page.locator("#found a").first.wait_for()
    page.locator("#found a").first.click()
    page.wait_for_url("**/facts/**")
    assert page.locator("table.fact tbody tr").count() == METHODS - 1  # one method has no result on this task
    page.locator("table.fact tbody tr").nth(2).locator("td").first.click()
    name = page.locator("tr.focus a").inner_text()
    assert page.url.endswith(f"#m-{name}")
    assert set(page.locator(".by mark").all_inner_texts()) == {name}
    page.reload()
    assert page.locator("tr.focus a").inner_text() == name
    page.get_by_role("link", name="Next").click()
    assert page.locator("table.fact").count() == 1


def test_surprise_leads_to_a_fact(visit):
    page = visit("facts.html")
    page.get_by_role("link", name="Surprise me").click()
    page.wait_for_url("**/facts/**")
    assert page.locator("table.fact").count() == 1


def test_cases_of_a_method_lead_to_the_fact_with_its_row_marked(visit):
    page = visit("methods/method-002.html")
    page.locator(".cases a").first.click()
    page.wait_for_url("**/facts/**")
    assert page.locator("tr.focus a").inner_text() == "method-002"
    page.locator("tr.focus a").click()
    page.wait_for_url("**/results/**")
    shown = page.locator(".case-rows tbody tr:visible").count()
    page.locator("input.filter").fill("Paraphrase 3/3")
    assert page.locator(".case-rows tbody tr:visible").count() < shown


# --- comparison --------------------------------------------------------------------------------------------------


def test_two_methods_are_compared_with_the_numbers_of_the_command(visit, site):
    section = next(path for path in (site / "data").glob("made-up-*") if "limit" not in path.name).name
    page = visit(f"compare.html#section={section}&a=method-018&b=method-001")
    page.locator(".verdict").wait_for()
    groups = group_by_task(find_runs([site.parent / "whole"]))
    by_kind = sorted(groups, key=lambda group: (int(group.task.split("-")[1]) % 2, group.task))
    values = [group.case_values for group in by_kind]  # as in tables: facts first
    expected = score_difference(values, "method-018", "method-001")
    table = page.locator("table").first
    cells = table.locator("tbody tr").last.locator("td").all_inner_texts()
    ends = [float(text.replace("\N{MINUS SIGN}", "-")) for text in cells[3].split(" to ")]
    assert float(cells[0]) == pytest.approx(100 * expected.a, abs=0.06)
    assert ends == pytest.approx([100 * expected.low, 100 * expected.high], abs=0.11)
    assert table.locator("tbody tr").count() == 4 + 3
    page.locator("select[name=b]").select_option("method-003")  # without a result on one of the four tasks
    playwright.expect(page.locator("table thead").first).to_contain_text("method-003")
    assert table.locator("tbody tr").count() == 3 + 1
    page.locator("select[name=b]").select_option("method-004")
    page.wait_for_url("**b=method-004*")
    playwright.expect(page.locator("table thead").first).to_contain_text("method-004")


# --- all pages ---------------------------------------------------------------------------------------------------


def kinds_of_pages(site):
    """Return the path of one page of every kind."""
    return [
        "index.html", "about.html", "compare.html", "facts.html", "matrix.html", "methods/method-002.html",
        *(next(site.glob(pattern)).relative_to(site).as_posix() for pattern in (
            "boards/*/task-00*success.html", "results/*/*/*.html", "tasks/*.html", "models/*.html",
            "models/smollm2-135m-*.html", "facts/*/*.html", "facts/*/*/*.html",
        )),
    ]  # fmt: skip


OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > width + 1);
  return wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120));
})()"""
"""Elements that extend beyond the right edge of a page that scrolls sideways."""


def test_pages_work_without_scripts(visit, site):
    page = visit("index.html", java_script_enabled=False)
    assert page.locator("table.data tbody tr").count() == METHODS
    assert page.locator("th[data-key=kept_neighbourhood]").is_visible()
    page.locator("nav.bar summary", has_text="Measure").click()
    assert page.get_by_role("link", name="exact", exact=True).is_visible()
    case = next(path for path in site.glob("facts/*/*/*.html") if "limit" not in path.as_posix())
    page = visit(case.relative_to(site).as_posix(), java_script_enabled=False)
    assert page.locator("table.fact tbody tr").count() > 1
    assert "JavaScript" in visit("compare.html", java_script_enabled=False).locator("noscript").inner_text()


def test_incomplete_and_limited_results_are_marked_and_not_ranked(visit, site):
    page = visit("index.html")
    assert column(page, "method")[-1] == "method-003"
    assert column(page, "rank")[-1] == "3 of 4 tasks"
    limited = visit(next(site.glob("boards/*limit-3*/facts-success.html")).relative_to(site).as_posix())
    assert set(column(limited, "rank")) == {"limited"}
    assert "limited to 3 cases, not ranked" in limited.locator(".about").inner_text()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        pytest.param(390, "dark", marks=pytest.mark.long),
        pytest.param(820, "light", marks=pytest.mark.long),
        pytest.param(820, "dark", marks=pytest.mark.long),
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
            page.locator(ROWS).nth(2).locator("button.more").click()
            page.locator("#tools summary", has_text="Filter").click()
        violations = Axe().run(page, options={"preload": False}).response["violations"]
        found |= {
            (path, v["id"]): [node["html"][:200] for node in v["nodes"][:3]]
            for v in violations
        }  # fmt: skip
        assert page.evaluate(OVERFLOW) == [], path
    assert found == {}
