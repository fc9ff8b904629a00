"""Who may import whom: the arrows of the design, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_USE = {
    "benchmark": {"benchmark"},
    "editors": {"editors", "benchmark"},
    "tasks": {"tasks", "benchmark"},
    "leaderboard": {
        "leaderboard",
        *(
            f"benchmark.{name}"
            for name in ("comparison", "figures", "files", "protocols", "results", "scoring", "statistics", "store")
        ),
    },
}


def imported(path: Path) -> set[str]:
    """Return the project modules that a file imports, such as ``benchmark.results``."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level]
            names = [[node.module]] if node.module else [[alias.name] for alias in node.names]
            found |= {".".join([*base, *name]) for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("knbench."):
            found.add(node.module.removeprefix("knbench."))
    return found


@pytest.mark.parametrize("folder", MAY_USE)
def test_arrows_of_import(folder):
    allowed = MAY_USE[folder]
    for path in (ROOT / folder).rglob("*.py"):
        for module in imported(path):
            assert any(module == a or module.startswith(a + ".") for a in allowed), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "module",
    [
        "knbench.leaderboard.command",
        "knbench.benchmark.cli",
        "knbench.benchmark.run_folder",
        "knbench.benchmark.local_executor",  # workers are started before this process imports torch
        "knbench.benchmark.ray_executor",
    ],
)
def test_what_must_answer_at_once_does_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_of_all_commands_does_not_load_torch():
    code = (
        "import sys\nfrom knbench.benchmark.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, "Run editors over tasks" in done.stdout) == (0, True)
