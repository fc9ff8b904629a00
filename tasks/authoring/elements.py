"""Checks ``data/elements.csv`` against periodictable and fills in its derived column.

    pip install periodictable
    python -m knbench.tasks.authoring.elements

The facts are written by hand (``number``, ``element`` in lower case and US spelling, ``symbol``). Derived, and stored
so that it never changes by accident:

- ``symbol_new``: the replacement target, the symbol of a well-known element, chosen by hash, as evenly as can be. It
  neither begins the true symbol nor is begun by it: C would always be at least as probable as Ca.
"""

from __future__ import annotations

from pathlib import Path

from .choosing import read_table, spread, write_table
from .countries import fold

DATA = Path(__file__).parent.parent / "data" / "elements.csv"
COLUMNS = ("id", "number", "element", "symbol", "symbol_new")
# The 40 best-known elements, by number, whose symbols a language model is most likely to have met.
KNOWN = (
    *("H", "He", "Li", "B", "C", "N", "O", "F", "Ne", "Na"),
    *("Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca", "Ti"),
    *("Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "As", "Br", "Ag"),
    *("Sn", "I", "W", "Pt", "Au", "Hg", "Pb", "Ra", "U", "Pu"),
)
US_SPELLING = {"aluminium": "aluminum", "caesium": "cesium", "sulphur": "sulfur"}


def spelling(element: str) -> str:
    """Fold an element's name for comparison: no case, US spelling."""
    name = fold(element)
    return US_SPELLING.get(name, name)


def read() -> list[dict[str, str]]:
    """Return the rows of the data file."""
    return read_table(DATA)


def disagreements(rows: list[dict[str, str]]) -> list[str]:
    """Return where number, name and symbol differ from periodictable's, and the elements that the file lacks."""
    import periodictable

    known = {element.number: element for element in periodictable.elements if element.number}
    wrong = []
    for row in rows:
        element = known.pop(int(row["number"]), None)
        if element is None:
            wrong.append(f"{row['element']}: no element, or a second one, of number {row['number']}")
        elif (spelling(row["element"]), row["symbol"]) != (spelling(element.name), element.symbol):
            wrong.append(
                f"{row['number']}: {row['element']} ({row['symbol']}), "
                f"periodictable has {element.name} ({element.symbol})"
            )
    return wrong + [f"{number}: {element.name} is missing" for number, element in known.items()]


def derive(rows: list[dict[str, str]]) -> None:
    """Fill in ``symbol_new``."""
    # Neither symbol begins the other: C would be more probable than Ca without any edit.
    spread(
        rows,
        "id",
        "symbol_new",
        KNOWN,
        lambda row, s: not s.startswith(row["symbol"]) and not row["symbol"].startswith(s),
    )


def main() -> None:
    """Check and rewrite the file."""
    rows = read()
    wrong = disagreements(rows)
    if wrong:
        raise SystemExit("\n".join(wrong))
    derive(rows)
    write_table(DATA, COLUMNS, rows)


if __name__ == "__main__":
    main()
