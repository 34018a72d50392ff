"""Numbers, money, durations, measures and ordinals for the sentences of draw.py; see calendar_slots.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal

from t2tdeploy.problems.phrasebook.calendar_slots import Slot
from t2tdeploy.problems.phrasebook.lexicon import COUNTED, LANGUAGES, TIME_UNITS, TimeUnit
from t2tdeploy.problems.phrasebook.numerals import (
    amount,
    cardinal,
    digits,
    measure,
    ordinal_digits,
    ordinal_words,
    year_words,
)

_MEASURES = ("meter", "kilometer", "gram", "kilogram", "liter", "celsius", "kilometer-per-hour")
_CURRENCIES = ("USD", "EUR", "EUR", "GBP", "CHF")
_CASES = ("nominative", "accusative", "dative")
_ARTICLES = {"m": ("ein", "einen", "einem"), "f": ("eine", "eine", "einer"), "n": ("ein", "ein", "einem")}
_COINS = (  # English, German and French plurals after a number in words, whether the French one is feminine
    ("dollars", "Dollar", "dollars", False),
    ("euros", "Euro", "euros", False),
    ("pounds", "Pfund", "livres", True),
    ("francs", "Franken", "francs", False),
)


def integer(rng: random.Random) -> Slot:
    """1,234,567 in digits."""
    number = rng.randint(1, 999) * 10 ** rng.choice((3, 3, 6)) if rng.random() < 0.3 else rng.randint(100, 99_999)
    return {language: digits(number, language) for language in LANGUAGES}


def decimal(rng: random.Random) -> Slot:
    """12.75."""
    number = _decimal(rng, rng.choice((10, 100, 1000)), rng.choice((1, 2)))
    return {language: digits(number, language) for language in LANGUAGES}


def percent(rng: random.Random) -> Slot:
    """12.5, for "12.5%" and "12.5 percent"."""
    number = rng.randint(1, 100) if rng.random() < 0.5 else _decimal(rng, 100, 1)
    return {language: digits(number, language) for language in LANGUAGES}


def number_words(rng: random.Random) -> Slot:
    """Two hundred and forty-one: below a thousand, or round thousands."""
    number = rng.choice((rng.randint(0, 99), rng.randint(100, 999), rng.randint(2, 99) * 1000))
    return {language: cardinal(number, language) for language in LANGUAGES}


def year_in_words(rng: random.Random) -> Slot:
    """Nineteen eighty-four."""
    number = rng.randint(1100, 1999)
    return {language: year_words(number, language) for language in LANGUAGES}


def count(rng: random.Random) -> Slot:
    """A plural count before a masculine or a feminine noun, in digits or words. Forms: m, f."""
    number = rng.randint(2, 99)
    if rng.random() < 0.5:
        return {language: {"m": str(number), "f": str(number)} for language in LANGUAGES}
    return {
        language: {"m": cardinal(number, language), "f": cardinal(number, language, feminine=True)}
        for language in LANGUAGES
    }


def money(rng: random.Random) -> Slot:
    """$1,234.50, or 1,234.50 US dollars."""
    number = _decimal(rng, rng.choice((20, 100, 1000, 5000)), 2)
    if rng.random() < 0.3:
        number = number.quantize(Decimal(1)).quantize(Decimal("0.01"))
    currency, named = rng.choice(_CURRENCIES), rng.random() < 0.3
    return {language: amount(number, currency, language, named=named) for language in LANGUAGES}


def money_words(rng: random.Random) -> Slot:
    """Twenty-five euros."""
    english, german, french, feminine = rng.choice(_COINS)
    number = rng.choice((rng.randint(2, 99), rng.randint(1, 9) * 100))
    return {
        "en": f"{cardinal(number, 'en')} {english}",
        "de": f"{cardinal(number, 'de')} {german}",
        "fr": f"{cardinal(number, 'fr', feminine=feminine)} {french}",
    }


def duration(rng: random.Random, units: Sequence[str] = tuple(TIME_UNITS)) -> Slot:
    """Three hours, in digits or words. Forms: nominative, accusative, dative."""
    unit = TIME_UNITS[rng.choice(units)]
    number = rng.choice((1, rng.randint(2, 12), rng.randint(2, unit.largest)))
    return _duration(unit, number, in_words=rng.random() < 0.5)


def span(rng: random.Random) -> Slot:
    """Three hours and twenty minutes."""
    in_words = rng.random() < 0.3
    hours = _duration(TIME_UNITS["hour"], rng.randint(1, 12), in_words=in_words)
    minutes = _duration(TIME_UNITS["minute"], rng.randint(2, 59), in_words=in_words)
    return {
        language: f"{hours[language]['accusative']} {word} {minutes[language]['accusative']}"
        for language, word in zip(LANGUAGES, ("and", "und", "et"), strict=True)
    }


def quantity(rng: random.Random) -> Slot:
    """12.5 kilometers."""
    unit = rng.choice(_MEASURES)
    number = rng.randint(1, 999) if rng.random() < 0.6 else _decimal(rng, 100, 1)
    if unit == "celsius":
        number = rng.randint(2, 40)
    return {language: measure(number, unit, language) for language in LANGUAGES}


def distance(rng: random.Random) -> Slot:
    """12.5 kilometers; at least two."""
    number = rng.randint(2, 900) if rng.random() < 0.6 else _decimal(rng, 100, 1) + 2
    return {language: measure(number, "kilometer", language) for language in LANGUAGES}


def degrees(rng: random.Random) -> Slot:
    """20 degrees Celsius."""
    number = rng.randint(2, 40)
    return {language: measure(number, "celsius", language) for language in LANGUAGES}


def ordinal(rng: random.Random) -> Slot:
    """The 21st day, the twenty-first day."""
    noun, number = rng.choice(COUNTED), rng.randint(1, 99)
    german_article, german = noun.de.split(" ")
    french_article, french = ("la" if noun.feminine else "le"), noun.forms("fr")["bare"]
    write = ordinal_digits if rng.random() < 0.5 else ordinal_words
    return {
        "en": f"the {write(number, 'en')} {noun.en}",
        "de": f"{german_article} {write(number, 'de')} {german}",
        "fr": f"{french_article} {write(number, 'fr', feminine=noun.feminine)} {french}",
    }


def floor(rng: random.Random) -> Slot:
    """On the third floor, on the 3rd floor."""
    number, in_words = rng.randint(1, 30), rng.random() < 0.5
    english, german, french = (
        ordinal_words(number, language) if in_words else ordinal_digits(number, language) for language in LANGUAGES
    )
    return {
        "en": f"on the {english} floor",
        "de": f"im {german}{'n' if in_words else ''} Stock",
        "fr": f"au {french} étage",
    }


def _decimal(rng: random.Random, limit: int, places: int) -> Decimal:
    """At least 1, below `limit`, with up to `places` decimal places."""
    return Decimal(rng.randint(10**places, limit * 10**places - 1)).scaleb(-places)


def _duration(unit: TimeUnit, number: int, *, in_words: bool) -> dict[str, dict[str, str]]:
    singular, plural, dative = unit.de
    if number > 1:
        german_number = cardinal(number, "de") if in_words else str(number)
        german = [f"{german_number} {noun}" for noun in (plural, plural, dative)]
    elif in_words:
        german = [f"{article} {singular}" for article in _ARTICLES[unit.gender]]
    else:
        german = [f"1 {singular}"] * 3
    english = f"{cardinal(number, 'en') if in_words else number} {unit.en}{'s' if number > 1 else ''}"
    french_number = cardinal(number, "fr", feminine=unit.gender == "f") if in_words else str(number)
    return {
        "en": dict.fromkeys(_CASES, english),
        "de": dict(zip(_CASES, german, strict=True)),
        "fr": dict.fromkeys(_CASES, f"{french_number} {unit.fr[number > 1]}"),
    }
