"""Dates, months and times of day for the sentences of draw.py, in English, German and French.

A slot maker draws a value and says it in every language: {language: text}, or {language: {grammatical form: text}}.
What is said in German and French depends only on what the English text shows (a weekday, a year, an abbreviated
month, words or digits): one source has one target.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping
from dataclasses import dataclass

from t2tdeploy.problems.phrasebook.lexicon import LANGUAGES, SEASONS, Language, day_names, month_names
from t2tdeploy.problems.phrasebook.numerals import cardinal, ordinal_digits, ordinal_words

Slot = Mapping[str, str | Mapping[str, str]]


@dataclass(frozen=True)
class _DateStyle:
    """An English way to write a date, and what it shows."""

    pattern: str
    weekday: bool = False
    year: bool = False
    short: bool = False


_DATE_STYLES = (
    _DateStyle("{month} {day}"),
    _DateStyle("{month} {ordinal}"),
    _DateStyle("{month} {day}, {year}", year=True),
    _DateStyle("{day} {month} {year}", year=True),
    _DateStyle("{short} {day}, {year}", year=True, short=True),
    _DateStyle("{weekday}, {month} {day}", weekday=True),
    _DateStyle("{weekday}, {month} {day}, {year}", weekday=True, year=True),
)


def date(rng: random.Random, first_year: int = 1950, last_year: int = 2049) -> Slot:
    """A date. Forms: bare, on, is (after "to be"), to (postponed), until, since."""
    value, style = _draw_date(rng, first_year, last_year), rng.choice(_DATE_STYLES)
    english = style.pattern.format(
        month=month_names("en")[value.month - 1],
        short=month_names("en", "abbreviated")[value.month - 1],
        day=value.day,
        ordinal=ordinal_digits(value.day, "en"),
        weekday=day_names("en")[value.weekday()],
        year=value.year,
    )
    day = day_names("de")[value.weekday()] + ", " if style.weekday else ""
    german = _day_month_year(value, style, "de")
    french = _day_month_year(value, style, "fr")
    if style.weekday:
        french = f"{day_names('fr')[value.weekday()]} {french}"
    return {
        "en": {"bare": english, "on": f"on {english}"},
        "de": {
            "bare": day + german,
            "on": f"am {day}dem {german}" if day else f"am {german}",
            "is": f"{day}der {german}",
            "to": f"auf {day}den {german}",
            "until": f"bis {day}den {german}" if day else f"bis zum {german}",
            "since": f"seit {day}dem {german}",
        },
        "fr": {
            "bare": french,
            "on": f"le {french}",
            "to": f"au {french}",
            "until": f"jusqu'au {french}",
            "since": f"depuis le {french}",
        },
    }


def coming_date(rng: random.Random) -> Slot:
    """A date that is not long ago."""
    return date(rng, 2024, 2039)


def past_date(rng: random.Random) -> Slot:
    """A date of the past."""
    return date(rng, 1950, 2023)


def numeric_date(rng: random.Random) -> Slot:
    """11/21/2025 or 2025-11-21; German and French always with two digits, as CLDR has it."""
    value = _draw_date(rng, 1950, 2049)
    style = rng.choice(("{0.month}/{0.day}/{0.year}", "{0:%m}/{0:%d}/{0:%Y}", "{0:%Y}-{0:%m}-{0:%d}"))
    return {"en": style.format(value), "de": f"{value:%d.%m.%Y}", "fr": f"{value:%d/%m/%Y}"}


def day_of_month(rng: random.Random) -> Slot:
    """The 21st of November, in digits or words. Forms: bare, on."""
    day, index = rng.randint(1, 28), rng.randrange(12)
    english, german, french = (month_names(language)[index] for language in LANGUAGES)
    if rng.random() < 0.5:
        day_en, day_de, dative_de, day_fr = ordinal_digits(day, "en"), f"{day}.", f"{day}.", _french_day(day)
    else:
        day_en, day_de = ordinal_words(day, "en"), ordinal_words(day, "de")
        dative_de, day_fr = f"{day_de}n", "premier" if day == 1 else cardinal(day, "fr")
    return {
        "en": {"bare": f"the {day_en} of {english}", "on": f"on the {day_en} of {english}"},
        "de": {"bare": f"der {day_de} {german}", "on": f"am {dative_de} {german}"},
        "fr": dict.fromkeys(("bare", "on"), f"le {day_fr} {french}"),
    }


def days(rng: random.Random) -> Slot:
    """From May 3 to 7: two days of one month, with or without the year."""
    first, index = rng.randint(1, 27), rng.randrange(12)
    last = rng.randint(first + 1, 28)
    year = f" {rng.randint(1990, 2039)}" if rng.random() < 0.5 else ""
    english, german, french = (month_names(language)[index] for language in LANGUAGES)
    return {
        "en": f"from {english} {first} to {last}{',' if year else ''}{year}",
        "de": f"vom {first}. bis {last}. {german}{year}",
        "fr": f"du {_french_day(first)} au {last} {french}{year}",
    }


def weekday(rng: random.Random) -> Slot:
    """A day of the week. Forms: bare, plural (of habit)."""
    day = rng.randrange(7)
    english, german, french = (day_names(language)[day] for language in LANGUAGES)
    return {
        "en": {"bare": english, "plural": f"{english}s"},
        "de": {"bare": german, "plural": f"{german.lower()}s"},
        "fr": {"bare": french, "plural": f"le {french}"},
    }


def month(rng: random.Random, first_year: int = 1950, last_year: int = 2039) -> Slot:
    """May, or May 2024."""
    index = rng.randrange(12)
    year = f" {rng.randint(first_year, last_year)}" if rng.random() < 0.7 else ""
    return {language: month_names(language)[index] + year for language in LANGUAGES}


def season(rng: random.Random) -> Slot:
    """In the spring of 2021."""
    english, german, french = rng.choice(SEASONS)
    year = rng.randint(1950, 2039)
    return {"en": f"{english} of {year}", "de": f"{german} {year}", "fr": f"{french} {year}"}


def year(rng: random.Random) -> Slot:
    """A year in digits, not long ago."""
    return dict.fromkeys(LANGUAGES, str(rng.randint(1980, 2023)))


def years(rng: random.Random) -> Slot:
    """Between two years."""
    first = rng.randint(1800, 2023)
    last = rng.randint(first + 1, 2039)
    return {
        "en": f"between {first} and {last}",
        "de": f"zwischen {first} und {last}",
        "fr": f"entre {first} et {last}",
    }


def time(rng: random.Random, first_hour: int = 0, last_hour: int = 23) -> Slot:
    """3:45 PM, 3 pm, 15:45 or 03:45; the German and French day has 24 hours."""
    hour = rng.randint(first_hour, last_hour)
    minute = rng.choice((0, 0, 0, 15, 30, 45, rng.randrange(60), rng.randrange(60)))
    twelve, half = (hour - 1) % 12 + 1, "AM" if hour < 12 else "PM"
    styles = [f"{twelve}:{minute:02} {half}", f"{twelve}:{minute:02} {half.lower()}", f"{hour:02}:{minute:02}"]
    if minute == 0:
        styles = [f"{twelve} {half}", f"{twelve} {half.lower()}"]
    minutes = f"{minute:02}" if minute else ""
    return {
        "en": rng.choice(styles),
        "de": f"{hour}:{minutes} Uhr" if minutes else f"{hour} Uhr",
        "fr": f"{hour} h {minutes}".rstrip(),
    }


def opening_time(rng: random.Random) -> Slot:
    """A full hour of the morning."""
    hour = rng.randint(6, 11)
    return {"en": f"{hour} AM", "de": f"{hour} Uhr", "fr": f"{hour} h"}


def closing_time(rng: random.Random) -> Slot:
    """A full hour of the afternoon or evening."""
    hour = rng.randint(1, 11)
    return {"en": f"{hour} PM", "de": f"{hour + 12} Uhr", "fr": f"{hour + 12} h"}


def clock(rng: random.Random) -> Slot:
    """Half past three: a time in words."""
    return dict(zip(LANGUAGES, _clock(rng, rng.randint(1, 11)), strict=True))


def clock_of_day(rng: random.Random) -> Slot:
    """Half past three in the afternoon."""
    first, last, parts = rng.choice(
        (
            (1, 11, ("in the morning", "morgens", "du matin")),
            (1, 5, ("in the afternoon", "nachmittags", "de l'après-midi")),
            (6, 11, ("in the evening", "abends", "du soir")),
        )
    )
    texts = _clock(rng, rng.randint(first, last))
    return {language: f"{text} {part}" for language, text, part in zip(LANGUAGES, texts, parts, strict=True)}


def _clock(rng: random.Random, hour: int) -> tuple[str, str, str]:
    """English, German and French; hours 1 to 11, for twelve has names of its own (midi, minuit)."""
    english, german = cardinal(hour, "en"), cardinal(hour, "de")
    french = _french_hour(hour)
    kind = rng.randrange(6)
    minutes = rng.choice((5, 10, 20))
    if kind == 0:
        return f"{english} o'clock", f"{'ein' if hour == 1 else german} Uhr", french
    if kind == 1:
        return f"half past {english}", f"halb {cardinal(hour + 1, 'de')}", f"{french} et demie"
    if kind == 2:
        return f"quarter past {english}", f"Viertel nach {german}", f"{french} et quart"
    if kind == 3:
        return f"quarter to {english}", f"Viertel vor {german}", f"{french} moins le quart"
    words = [cardinal(minutes, language) for language in LANGUAGES]
    if kind == 4:
        return f"{words[0]} past {english}", f"{words[1]} nach {german}", f"{french} {words[2]}"
    return f"{words[0]} to {english}", f"{words[1]} vor {german}", f"{french} moins {words[2]}"


def _french_hour(hour: int) -> str:
    return "une heure" if hour == 1 else f"{cardinal(hour, 'fr')} heures"


def _draw_date(rng: random.Random, first_year: int, last_year: int) -> datetime.date:
    first = datetime.date(first_year, 1, 1).toordinal()
    return datetime.date.fromordinal(rng.randint(first, datetime.date(last_year, 12, 31).toordinal()))


def _day_month_year(value: datetime.date, style: _DateStyle, language: Language) -> str:
    """ "21. November 2025", "21 novembre"."""
    name = month_names(language, "abbreviated" if style.short else "wide")[value.month - 1]
    day = f"{value.day}." if language == "de" else _french_day(value.day)
    return f"{day} {name} {value.year}" if style.year else f"{day} {name}"


def _french_day(day: int) -> str:
    return "1er" if day == 1 else str(day)
