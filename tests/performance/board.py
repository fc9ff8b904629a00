"""Measures the site of 200 methods on 20 tasks with random results: building, first paint, sorting and filtering.

Usage: ``python -m tests.performance.board``. The browser is measured only if Chromium is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.performance.records import write_board

METHODS, TASKS, CASES = 200, 20, 5
SORT = """(key) => new Promise(done => {
  const began = performance.now();
  document.querySelector(`th[data-key=${key}] button.sort`).click();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""
"""Clicks a column header and waits until the next frame is drawn."""
FILTER = """(text) => new Promise(done => {
  const field = document.querySelector("#tools input");
  const began = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input"));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""
"""Types a text into the search field and waits until the next frame is drawn."""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


def board_lines() -> list[str]:
    """Build the site, sort its table in Chromium, and return one line per measurement."""
    with tempfile.TemporaryDirectory() as folder:
        results, site = Path(folder) / "results", Path(folder) / "site"
        write_board(results, METHODS, TASKS, CASES)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "knbench.benchmark", "site", "build", str(results), "--output", str(site)],
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - start
        lines = [f"site of {METHODS} methods x {TASKS} tasks x {CASES} cases: {seconds:.1f} s"]
        return [*lines, *browser_lines(site)]


def browser_lines(site: Path) -> list[str]:
    """Return one line per median time in Chromium: first paint, sorting, filtering."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return ["no Chromium"]
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        paints = []
        for _ in range(3):
            page.goto(f"file://{site}/index.html")
            page.wait_for_timeout(300)
            paints.append(float(page.evaluate(PAINT)))
        keys = ("gain", "preservation", "direct", "wording", "seconds")
        sorting = [float(page.evaluate(SORT, key)) for _ in range(2) for key in keys]
        filtering = [float(page.evaluate(FILTER, text)) for _ in range(3) for text in ("method-01", "gain>20", "")]
    return [
        f"first paint of {METHODS} rows in Chromium: {median(paints):.0f} ms",
        f"sorting {METHODS} rows in Chromium: {median(sorting):.0f} ms",
        f"filtering {METHODS} rows in Chromium: {median(filtering):.0f} ms",
    ]


if __name__ == "__main__":
    print("\n".join(board_lines()))
