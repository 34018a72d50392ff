"""Draws phrases about dates, times, amounts and durations in English with their German or French translation.

A slot of a template is drawn once for both languages, so that the translation says what the English text says.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Literal

from t2tdeploy.problems.phrasebook import amount_slots, calendar_slots, lexicon
from t2tdeploy.problems.phrasebook.calendar_slots import Slot
from t2tdeploy.problems.phrasebook.lexicon import Noun
from t2tdeploy.problems.phrasebook.templates import TEMPLATES

_SLOT = re.compile(r"\{([a-z_]+)")


def _noun(nouns: Sequence[Noun]) -> Callable[[random.Random], Slot]:
    def draw(rng: random.Random) -> Slot:
        noun = rng.choice(nouns)
        return {language: noun.forms(language) for language in lexicon.LANGUAGES}

    return draw


def _person(rng: random.Random) -> Slot:
    english, german, french, woman = rng.choice(lexicon.PERSONS)
    return {"en": english, "de": german, "fr": {"name": french, "e": "e" if woman else ""}}


def _city(rng: random.Random) -> Slot:
    english, german, french = rng.choice(lexicon.CITIES)
    return {"en": english, "de": german, "fr": french}


SLOTS: dict[str, Callable[[random.Random], Slot]] = {
    "city": _city,
    "clock": calendar_slots.clock,
    "clock_of_day": calendar_slots.clock_of_day,
    "closing_time": calendar_slots.closing_time,
    "coming": calendar_slots.coming_date,
    "coming_month": partial(calendar_slots.month, first_year=2024),
    "count": amount_slots.count,
    "date": calendar_slots.date,
    "day_of_month": calendar_slots.day_of_month,
    "days": calendar_slots.days,
    "daytime": partial(calendar_slots.time, first_hour=8, last_hour=21),
    "decimal": amount_slots.decimal,
    "degrees": amount_slots.degrees,
    "distance": amount_slots.distance,
    "duration": amount_slots.duration,
    "event": _noun(lexicon.EVENTS),
    "floor": amount_slots.floor,
    "goods": _noun(lexicon.GOODS),
    "guests": _noun(lexicon.GUESTS),
    "integer": amount_slots.integer,
    "lasting": _noun(lexicon.LASTING),
    "money": amount_slots.money,
    "money_words": amount_slots.money_words,
    "month": calendar_slots.month,
    "number_words": amount_slots.number_words,
    "numeric_date": calendar_slots.numeric_date,
    "opening_time": calendar_slots.opening_time,
    "ordinal": amount_slots.ordinal,
    "past": calendar_slots.past_date,
    "past_month": partial(calendar_slots.month, last_year=2023),
    "percent": amount_slots.percent,
    "person": _person,
    "place": _noun(lexicon.PLACES),
    "quantity": amount_slots.quantity,
    "season": calendar_slots.season,
    "soon": partial(amount_slots.duration, units=("minute", "hour", "day", "week")),
    "span": amount_slots.span,
    "stay": partial(amount_slots.duration, units=("day", "week", "month", "year")),
    "time": calendar_slots.time,
    "vehicle": _noun(lexicon.VEHICLES),
    "wait": partial(amount_slots.duration, units=("minute", "hour")),
    "weekday": calendar_slots.weekday,
    "year": calendar_slots.year,
    "years": calendar_slots.years,
    "year_in_words": amount_slots.year_in_words,
}

_CUMULATIVE_WEIGHTS = list(accumulate(template.weight for template in TEMPLATES))


def phrase_pairs(language: Literal["de", "fr"], seed: int) -> Iterator[tuple[str, str]]:
    """Endless English phrases with their translation, always the same ones for a seed; some come again."""
    rng = random.Random(seed)
    while True:
        (template,) = rng.choices(TEMPLATES, cum_weights=_CUMULATIVE_WEIGHTS)
        slots = {name: SLOTS[name](rng) for name in _SLOT.findall(template.en)}
        english = template.en.format(**{name: slot["en"] for name, slot in slots.items()})
        pattern = template.de if language == "de" else template.fr
        translation = pattern.format(**{name: slot[language] for name, slot in slots.items()})
        yield _capitalized(english), _capitalized(translation)


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:] if text.endswith((".", "?")) else text
