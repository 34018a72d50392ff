"""What the date problems say: phrases and short sentences in English, German and French.

Braces hold slots (see draw.py); the name in brackets is the grammatical form. A sentence ends with a full stop or
a question mark and begins with a capital, whatever stands first.
"""

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """How often a phrase is drawn, relative to the others, and how each language says it."""

    weight: int
    en: str
    de: str
    fr: str


TEMPLATES = (
    # dates
    Template(10, "{date[bare]}", "{date[bare]}", "{date[bare]}"),
    Template(5, "{numeric_date}", "{numeric_date}", "{numeric_date}"),
    Template(3, "{date[on]}", "{date[on]}", "{date[on]}"),
    Template(3, "{day_of_month[bare]}", "{day_of_month[bare]}", "{day_of_month[bare]}"),
    Template(2, "until {date[bare]}", "{date[until]}", "{date[until]}"),
    Template(2, "since {date[bare]}", "{date[since]}", "{date[since]}"),
    Template(3, "{days}", "{days}", "{days}"),
    Template(2, "in {month}", "im {month}", "en {month}"),
    Template(1, "at the beginning of {month}", "Anfang {month}", "début {month}"),
    Template(1, "at the end of {month}", "Ende {month}", "fin {month}"),
    Template(1, "{season}", "{season}", "{season}"),
    Template(1, "{years}", "{years}", "{years}"),
    Template(3, "{year_in_words}", "{year_in_words}", "{year_in_words}"),
    Template(3, "Today is {coming[bare]}.", "Heute ist {coming[is]}.", "Aujourd'hui, nous sommes {coming[on]}."),
    Template(
        5, "The {event[bare]} is {coming[on]}.", "{event[the]} ist {coming[on]}.", "{event[the]} est {coming[on]}."
    ),
    Template(
        5,
        "The {event[bare]} takes place {coming[on]}.",
        "{event[the]} findet {coming[on]} statt.",
        "{event[the]} a lieu {coming[on]}.",
    ),
    Template(
        3,
        "The {event[bare]} was {past[on]}.",
        "{event[the]} war {past[on]}.",
        "{event[the]} était {past[on]}.",
    ),
    Template(
        4,
        "We postponed the {event[bare]} to {coming[bare]}.",
        "Wir haben {event[object]} {coming[to]} verschoben.",
        "Nous avons reporté {event[the]} {coming[to]}.",
    ),
    Template(
        4,
        "{person} was born {past[on]}.",
        "{person} wurde {past[on]} geboren.",
        "{person[name]} est né{person[e]} {past[on]}.",
    ),
    Template(
        2,
        "{person} was born {day_of_month[on]}.",
        "{person} wurde {day_of_month[on]} geboren.",
        "{person[name]} est né{person[e]} {day_of_month[on]}.",
    ),
    Template(
        3,
        "The {place[bare]} is closed until {coming[bare]}.",
        "{place[the]} ist {coming[until]} geschlossen.",
        "{place[the]} est fermé{place[e]} {coming[until]}.",
    ),
    Template(
        2,
        "The {place[bare]} is closed {days}.",
        "{place[the]} ist {days} geschlossen.",
        "{place[the]} est fermé{place[e]} {days}.",
    ),
    Template(
        2,
        "{person} has lived in {city} since {past[bare]}.",
        "{person} wohnt {past[since]} in {city}.",
        "{person[name]} habite à {city} {past[since]}.",
    ),
    Template(
        2,
        "{person} has been working in {city} since {year}.",
        "{person} arbeitet seit {year} in {city}.",
        "{person[name]} travaille à {city} depuis {year}.",
    ),
    Template(
        2,
        "We are going to {city} in {coming_month}.",
        "Wir fahren im {coming_month} nach {city}.",
        "Nous allons à {city} en {coming_month}.",
    ),
    # times
    Template(5, "{time}", "{time}", "{time}"),
    Template(3, "{clock}", "{clock}", "{clock}"),
    Template(3, "{clock_of_day}", "{clock_of_day}", "{clock_of_day}"),
    Template(2, "tomorrow at {time}", "morgen um {time}", "demain à {time}"),
    Template(2, "yesterday at {time}", "gestern um {time}", "hier à {time}"),
    Template(
        2, "next {weekday[bare]} at {time}", "nächsten {weekday[bare]} um {time}", "{weekday[bare]} prochain à {time}"
    ),
    Template(
        2, "last {weekday[bare]} at {time}", "letzten {weekday[bare]} um {time}", "{weekday[bare]} dernier à {time}"
    ),
    Template(
        2, "every {weekday[bare]} at {time}", "jeden {weekday[bare]} um {time}", "chaque {weekday[bare]} à {time}"
    ),
    Template(3, "It is {clock}.", "Es ist {clock}.", "Il est {clock}."),
    Template(
        4,
        "The {event[bare]} starts at {daytime}.",
        "{event[the]} beginnt um {daytime}.",
        "{event[the]} commence à {daytime}.",
    ),
    Template(
        3,
        "The {event[bare]} starts at {clock}.",
        "{event[the]} beginnt um {clock}.",
        "{event[the]} commence à {clock}.",
    ),
    Template(
        3,
        "The {event[bare]} starts {coming[on]} at {daytime}.",
        "{event[the]} beginnt {coming[on]} um {daytime}.",
        "{event[the]} commence {coming[on]} à {daytime}.",
    ),
    Template(
        4,
        "The {vehicle[bare]} to {city} leaves at {time}.",
        "{vehicle[the]} nach {city} fährt um {time} ab.",
        "{vehicle[the]} pour {city} part à {time}.",
    ),
    Template(
        2,
        "The {vehicle[bare]} from {city} arrives at {clock}.",
        "{vehicle[the]} aus {city} kommt um {clock} an.",
        "{vehicle[the]} de {city} arrive à {clock}.",
    ),
    Template(
        2,
        "The {place[bare]} is open from {opening_time} to {closing_time}.",
        "{place[the]} ist von {opening_time} bis {closing_time} geöffnet.",
        "{place[the]} est ouvert{place[e]} de {opening_time} à {closing_time}.",
    ),
    Template(
        2,
        "The {place[bare]} opens at {opening_time} on {weekday[plural]}.",
        "{place[the]} öffnet {weekday[plural]} um {opening_time}.",
        "{place[the]} ouvre à {opening_time} {weekday[plural]}.",
    ),
    Template(
        2,
        "Can we meet at {daytime} on {weekday[bare]}?",
        "Können wir uns am {weekday[bare]} um {daytime} treffen?",
        "Pouvons-nous nous voir {weekday[bare]} à {daytime} ?",
    ),
    # numbers and ordinals
    Template(5, "{number_words}", "{number_words}", "{number_words}"),
    Template(3, "{integer}", "{integer}", "{integer}"),
    Template(2, "{decimal}", "{decimal}", "{decimal}"),
    Template(2, "{percent}%", "{percent} %", "{percent} %"),
    Template(2, "{percent} percent", "{percent} Prozent", "{percent} pour cent"),
    Template(4, "{ordinal}", "{ordinal}", "{ordinal}"),
    Template(2, "This is {ordinal}.", "Das ist {ordinal}.", "C'est {ordinal}."),
    Template(2, "{person} lives {floor}.", "{person} wohnt {floor}.", "{person[name]} habite {floor}."),
    Template(
        3,
        "{count[m]} {guests[bare]} came to the {event[bare]}.",
        "{count[m]} {guests[bare]} kamen {event[to]}.",
        "{count[m]} {guests[bare]} sont venus {event[to]}.",
    ),
    Template(
        1,
        "{count[f]} people came to the {event[bare]}.",
        "{count[f]} Personen kamen {event[to]}.",
        "{count[f]} personnes sont venues {event[to]}.",
    ),
    Template(
        3, "{person} is {count[m]} years old.", "{person} ist {count[m]} Jahre alt.", "{person[name]} a {count[m]} ans."
    ),
    Template(
        2,
        "Prices rose by {percent} percent in {past_month}.",
        "Die Preise sind im {past_month} um {percent} Prozent gestiegen.",
        "Les prix ont augmenté de {percent} pour cent en {past_month}.",
    ),
    # money
    Template(6, "{money}", "{money}", "{money}"),
    Template(3, "{money_words}", "{money_words}", "{money_words}"),
    Template(4, "The {goods[bare]} costs {money}.", "{goods[the]} kostet {money}.", "{goods[the]} coûte {money}."),
    Template(
        3,
        "The {goods[bare]} costs {money_words}.",
        "{goods[the]} kostet {money_words}.",
        "{goods[the]} coûte {money_words}.",
    ),
    Template(
        3,
        "I paid {money} for the {goods[bare]}.",
        "Ich habe {money} für {goods[object]} bezahlt.",
        "J'ai payé {money} pour {goods[the]}.",
    ),
    Template(
        2,
        "{person} sold the {goods[bare]} for {money_words}.",
        "{person} hat {goods[object]} für {money_words} verkauft.",
        "{person[name]} a vendu {goods[the]} pour {money_words}.",
    ),
    # durations and measures
    Template(4, "{duration[nominative]}", "{duration[nominative]}", "{duration[nominative]}"),
    Template(2, "{span}", "{span}", "{span}"),
    Template(3, "in {duration[dative]}", "in {duration[dative]}", "dans {duration[dative]}"),
    Template(3, "{duration[dative]} ago", "vor {duration[dative]}", "il y a {duration[dative]}"),
    Template(3, "{quantity}", "{quantity}", "{quantity}"),
    Template(3, "The {lasting[bare]} lasts {span}.", "{lasting[the]} dauert {span}.", "{lasting[the]} dure {span}."),
    Template(
        2,
        "We have been waiting for {wait[dative]}.",
        "Wir warten seit {wait[dative]}.",
        "Nous attendons depuis {wait[dative]}.",
    ),
    Template(
        3,
        "The {event[bare]} starts in {soon[dative]}.",
        "{event[the]} beginnt in {soon[dative]}.",
        "{event[the]} commence dans {soon[dative]}.",
    ),
    Template(
        2,
        "{person} moved to {city} {stay[dative]} ago.",
        "{person} ist vor {stay[dative]} nach {city} gezogen.",
        "{person[name]} a déménagé à {city} il y a {stay[dative]}.",
    ),
    Template(
        2,
        "{person} stayed in {city} for {stay[accusative]}.",
        "{person} ist {stay[accusative]} in {city} geblieben.",
        "{person[name]} est resté{person[e]} {stay[accusative]} à {city}.",
    ),
    Template(
        2,
        "It is {degrees} in {city}.",
        "In {city} sind es {degrees}.",
        "Il fait {degrees} à {city}.",
    ),
    Template(
        2,
        "It is {distance} to {city}.",
        "Es sind {distance} bis {city}.",
        "Il y a {distance} jusqu'à {city}.",
    ),
)
