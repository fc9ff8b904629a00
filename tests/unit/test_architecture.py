"""The import structure, read from the source: layers, the absence of cycles, file sizes and light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmark", "editors", "tasks", "leaderboard")
LAYERS = (
    {"core"},
    {"models", "scoring"},
    {"editing"},
    {"probing", "results"},
    {"running"},
    {"analyses", "conformance"},
    {"api"},
    {"commands"},
)
"""Parts of ``benchmark``, lowest first. A part imports itself, lower layers, and ``__init__``."""
MAY_IMPORT = {
    "editors": ("editors", "benchmark", "benchmark.core", "benchmark.editing", "benchmark.models"),
    "tasks": ("tasks", "benchmark", "benchmark.core", "benchmark.scoring"),
    "leaderboard": ("leaderboard", "benchmark", "benchmark.core", "benchmark.results", "benchmark.scoring"),
}
MAX_LINES = 450


def modules() -> dict[str, Path]:
    """Return every module of the product by its dotted name below ``knbench``."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Return the product modules that a module imports, those for type checking alone included."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
            source = [*base, *(node.module or "").split(".")] if node.module else base
        elif (node.module or "").split(".")[0] == "knbench":
            source = (node.module or "").split(".")[1:]
        else:
            continue
        for alias in node.names:
            whole = ".".join([*source, alias.name])
            found.add(whole if whole in MODULES else ".".join(source))
    return found


def part_of(module: str) -> str:
    """Return the part of ``benchmark`` that a module belongs to; the package itself is ``""``."""
    return [*module.split("."), ""][1]


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the order of the layers lets a module of ``benchmark`` import another part."""
    own, other = part_of(importer), part_of(imported)
    if other in ("", own):
        return True
    heights = {part: height for height, layer in enumerate(LAYERS) for part in layer}
    return heights[other] < heights[own]


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("benchmark.") and part_of(n) != "__main__"])
def test_benchmark_imports_follow_the_layers(name):
    wrong = [other for other in imports(name) if other.startswith("benchmark") and not is_allowed(name, other)]
    assert wrong == []
    outside = [other for other in imports(name) if not other.startswith("benchmark")]
    assert outside == [], "benchmark reaches editors, tasks and leaderboard through entry points only"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_other_packages_import_what_is_public_to_them(package):
    for name in (n for n in MODULES if n.split(".")[0] == package):
        for other in imports(name):
            part = other if other.split(".")[0] != "benchmark" else ".".join(other.split(".")[:2])
            assert part.split(".")[0] == package or part in MAY_IMPORT[package], f"{name} imports {other}"


def test_no_import_cycle():
    graph = {name: imports(name) - {name} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_cycle_test_finds_a_cycle():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_files_have_one_purpose(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize(
    "module",
    [
        "knbench.leaderboard.command",
        "knbench.benchmark.commands.main",
        "knbench.benchmark.running.run_folder",
        "knbench.benchmark.running.workers.local",  # workers start before this process imports torch
        "knbench.benchmark.running.workers.ray",
    ],
)
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "part", "seconds"),
    [
        (["--help"], "Run editors over tasks", 0.7),
        (["list", "editors"], "alphaedit", 1.5),
        (["list", "guards"], "rect", 1.5),
    ],
)
def test_lists_of_commands_and_methods_load_neither_torch_nor_scipy(arguments, part, seconds):
    """Nor jsonschema, which words errors of results. The time of the processor is limited."""
    code = (
        "import sys, time\nfrom knbench.benchmark.commands.main import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'scipy', 'numpy', 'jsonschema'} & sys.modules.keys()\n"
        f"sys.exit(bool(heavy) or time.process_time() > {seconds})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, part in done.stdout) == (0, True), done.stderr
