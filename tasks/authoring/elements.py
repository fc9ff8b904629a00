"""Checks ``data/elements.csv`` against periodictable and fills its derived column.

    pip install periodictable
    python -m knbench.tasks.authoring.elements

The columns ``number``, ``element`` (lower case, US spelling) and ``symbol`` are written by hand. One column is derived,
and stored to protect it from accidental changes:

- ``symbol_new``: the new target, the symbol of a well-known element. Targets are drawn by hash and balanced. Neither
  symbol is a prefix of the other: C is always at least as probable as Ca.
"""

from __future__ import annotations

from pathlib import Path

from .countries import fold
from .tables import draw_balanced, read_table, write_table

DATA = Path(__file__).parent.parent / "data" / "elements.csv"
COLUMNS = ("id", "number", "element", "symbol", "symbol_new")
# The 40 best-known elements by number. A language model most likely knows their symbols.
WELL_KNOWN = (
    *("H", "He", "Li", "B", "C", "N", "O", "F", "Ne", "Na"),
    *("Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca", "Ti"),
    *("Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "As", "Br", "Ag"),
    *("Sn", "I", "W", "Pt", "Au", "Hg", "Pb", "Ra", "U", "Pu"),
)
US_SPELLING = {"aluminium": "aluminum", "caesium": "cesium", "sulphur": "sulfur"}


def spelling(element: str) -> str:
    """Return an element's name without case and in US spelling, for comparison."""
    name = fold(element)
    return US_SPELLING.get(name, name)


def read() -> list[dict[str, str]]:
    """Return the rows of the data file."""
    return read_table(DATA)


def disagreements(rows: list[dict[str, str]]) -> list[str]:
    """Return a message for each row that differs from periodictable, and one for each missing element."""
    import periodictable

    known = {element.number: element for element in periodictable.elements if element.number}
    messages = []
    for row in rows:
        element = known.pop(int(row["number"]), None)
        if element is None:
            messages.append(f"{row['element']}: number {row['number']} is unknown or occurs twice")
        elif (spelling(row["element"]), row["symbol"]) != (spelling(element.name), element.symbol):
            messages.append(
                f"{row['number']}: {row['element']} ({row['symbol']}), "
                f"periodictable has {element.name} ({element.symbol})"
            )
    return messages + [f"{number}: {element.name} is missing" for number, element in known.items()]


def derive(rows: list[dict[str, str]]) -> None:
    """Fill the column ``symbol_new``."""
    draw_balanced(
        rows,
        "id",
        "symbol_new",
        WELL_KNOWN,
        lambda row, target: not target.startswith(row["symbol"]) and not row["symbol"].startswith(target),
    )


def main() -> None:
    """Check the file and rewrite it with its derived column."""
    rows = read()
    messages = disagreements(rows)
    if messages:
        raise SystemExit("\n".join(messages))
    derive(rows)
    write_table(DATA, COLUMNS, rows)


if __name__ == "__main__":
    main()
