"""Chooses the new targets of the built-in relations and stores them in ``data/TASK.new.csv``.

    python -m knbench.tasks.authoring.new_targets

Stored, so that neither a new row nor a new version of the choosing rule changes an edit by accident.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import yaml

from ..facts import new_targets, read_rows

FOLDER = Path(__file__).parent.parent
CHOSEN: dict[str, dict[str, int | str]] = {
    "capital-inverse": {"seed": 1, "among": "prominent"},
    "city-country": {"seed": 2, "among": "prominent"},
    "field-of-work": {"seed": 3},
    "instrument": {"seed": 4},
    "religion": {"seed": 5},
    "mother-tongue": {"seed": 6},
}


def tables() -> Iterator[tuple[Path, str]]:
    """Yield each file's path and what should stand in it."""
    for task, rule in CHOSEN.items():
        path = FOLDER / "definitions" / f"{task}.yaml"
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))["facts"]
        stored = f"../data/{task}.new.csv"
        spec = {**facts, "data": [name for name in facts["data"] if name != stored], "new": rule}
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([spec["id"], "new"])
        writer.writerows(new_targets(spec, read_rows(spec, path)).items())
        lines = out.getvalue().splitlines(keepends=True)
        yield FOLDER / "data" / f"{task}.new.csv", "".join([lines[0], *sorted(lines[1:])])


def main() -> None:
    """Write the files."""
    for path, text in tables():
        path.write_text(text, encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
