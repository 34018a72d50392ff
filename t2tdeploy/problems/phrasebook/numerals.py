"""Numbers, ordinals and amounts as text in English, German and French: digits by CLDR (Babel), words by num2words."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache

from babel.numbers import format_currency, format_decimal
from babel.units import format_unit
from num2words import num2words

from t2tdeploy.problems.phrasebook.lexicon import LOCALES, Language

_SPACES = re.compile(r"[\u00a0\u2009\u202f]")


def plain_spaces(text: str) -> str:
    """CLDR's no-break and thin spaces as ordinary ones: vocabularies normalize them anyway."""
    return _SPACES.sub(" ", text)


def digits(number: int | Decimal, language: Language) -> str:
    """1234.5 -> "1,234.5", "1.234,5", "1 234,5"."""
    return plain_spaces(format_decimal(number, locale=LOCALES[language]))


def amount(number: Decimal, currency: str, language: Language, *, named: bool = False) -> str:
    """ "$1,234.50", or with `named` "1,234.50 US dollars"; always with the cents."""
    locale = LOCALES[language]
    if named:
        return plain_spaces(format_currency(number, currency, locale=locale, format_type="name"))
    text = plain_spaces(format_currency(number, currency, locale=locale))
    return re.sub(r"^([A-Z]{3})(?=\d)", r"\1 ", text)  # "CHF 5.00", as CLDR has it; Babel joins them


def measure(number: int | Decimal, unit: str, language: Language) -> str:
    """ "1.5 kilometers", "1,5 Kilometer", "1,5 kilomètre"; `unit` is a CLDR name."""
    return plain_spaces(format_unit(number, unit, "long", locale=LOCALES[language]))


@cache
def cardinal(number: int, language: Language, *, feminine: bool = False) -> str:
    """ "twenty-one", "einundzwanzig", "vingt et un(e)": 0 to 999 and round thousands.

    `feminine` matters in French only; German "eins" before a noun is the caller's business.
    """
    words = str(num2words(number, lang=language))
    if language == "fr" and feminine and (words == "un" or words.endswith((" un", "-un"))):
        return words + "e"
    return words


@cache
def year_words(year: int, language: Language) -> str:
    """ "nineteen eighty-four", "neunzehnhundertvierundachtzig", "mille neuf cent quatre-vingt-quatre": 1100 to 1999."""
    return str(num2words(year, lang=language, to="year"))


@cache
def ordinal_words(number: int, language: Language, *, feminine: bool = False) -> str:
    """ "twenty-first", "einundzwanzigste", "vingt et unième" ("première" in the feminine)."""
    if language == "fr" and number == 1 and feminine:
        return "première"
    return str(num2words(number, lang=language, to="ordinal"))


def ordinal_digits(number: int, language: Language, *, feminine: bool = False) -> str:
    """ "21st", "21.", "21e" ("1er", "1re")."""
    if language == "de":
        return f"{number}."
    if language == "fr":
        return f"{number}{('re' if feminine else 'er') if number == 1 else 'e'}"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
