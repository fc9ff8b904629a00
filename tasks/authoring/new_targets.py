"""Draws the new targets of built-in tasks and stores them in ``data/TASK.new.csv``.

    python -m knbench.tasks.authoring.new_targets

The targets are stored because a new row or a change of the drawing rule would otherwise change existing edits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import yaml

from ..draws import new_targets
from ..facts import read_rows

FOLDER = Path(__file__).parent.parent
DRAWS: dict[str, dict[str, int | str]] = {
    "capital-inverse": {"seed": 1, "among": "prominent"},
    "city-country": {"seed": 2, "among": "prominent"},
    "field-of-work": {"seed": 3},
    "instrument": {"seed": 4},
    "religion": {"seed": 5},
    "mother-tongue": {"seed": 6},
}


def tables() -> Iterator[tuple[Path, str]]:
    """Yield the path of each file and its expected content."""
    for task, rule in DRAWS.items():
        path = FOLDER / "definitions" / f"{task}.yaml"
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))["facts"]
        stored = f"../data/{task}.new.csv"
        spec = {**facts, "data": [name for name in facts["data"] if name != stored], "new": rule}
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([spec["id"], "new"])
        writer.writerows(new_targets(spec, read_rows(spec, path)).items())
        lines = buffer.getvalue().splitlines(keepends=True)
        yield FOLDER / "data" / f"{task}.new.csv", "".join([lines[0], *sorted(lines[1:])])


def main() -> None:
    """Write the files."""
    for path, text in tables():
        path.write_text(text, encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
