"""Measures the build time of the site and the time to sort a table, for 200 methods on 20 tasks with random results.

Usage: ``python -m tests.performance.board``. Sorting is measured only if Chromium is installed.
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
  const table = document.querySelector("table.data");
  const began = performance.now();
  const frame = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  new DataTable.Api(table).one("draw", frame);
  table.querySelector(`th[data-key=${key}]`).click();
})"""
"""Clicks a column header and waits until the rows are sorted and the next frame is drawn."""


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
        milliseconds = sort_milliseconds(site)
        return [*lines, f"sorting {METHODS} rows in Chromium: {milliseconds:.0f} ms" if milliseconds else "no Chromium"]


def sort_milliseconds(site: Path) -> float | None:
    """Return the median time from the click to the rendered sorted table in milliseconds; None without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"file://{site}/index.html")
        keys = ("reliability", "paraphrase", "symmetry", "neighbourhood", "score")
        return median(float(page.evaluate(SORT, key)) for _ in range(2) for key in keys)


if __name__ == "__main__":
    print("\n".join(board_lines()))
