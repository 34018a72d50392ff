"""Words of the date phrases in English, German and French, with the grammar their sentences need.

Names of months and days come from CLDR through Babel; the nouns here are few and common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from babel import Locale
from babel.dates import get_day_names, get_month_names

Language = Literal["en", "de", "fr"]

LANGUAGES: tuple[Language, ...] = ("en", "de", "fr")

LOCALES = {language: Locale.parse(name) for language, name in (("en", "en_US"), ("de", "de_DE"), ("fr", "fr_FR"))}

_ACCUSATIVE = {"der": "den", "die": "die", "das": "das"}
_TO = {"der": "zum", "die": "zur", "das": "zum"}


@dataclass(frozen=True)
class Noun:
    """A noun of the three languages.

    Args:
        en: without article.
        de: nominative with article, "der Zug".
        fr: with article, "la fête", "l'examen".
        feminine: gender of the French noun, which an elided article hides.
    """

    en: str
    de: str
    fr: str
    feminine: bool = False

    def forms(self, language: Language) -> dict[str, str]:
        """Grammatical form -> text: bare (no article), the (subject), object, to (direction or attendance)."""
        if language == "en":
            return {"bare": self.en, "the": f"the {self.en}", "object": f"the {self.en}", "to": f"to the {self.en}"}
        if language == "de":
            article, word = self.de.split(" ", 1)
            return {
                "bare": word,
                "the": self.de,
                "object": f"{_ACCUSATIVE[article]} {word}",
                "to": f"{_TO[article]} {word}",
            }
        word = self.fr.removeprefix("le ").removeprefix("la ").removeprefix("les ").removeprefix("l'")
        to = f"au {word}" if self.fr.startswith("le ") else f"à {self.fr}"
        return {"bare": word, "the": self.fr, "object": self.fr, "to": to, "e": "e" if self.feminine else ""}


EVENTS = (
    Noun("meeting", "das Treffen", "la réunion", feminine=True),
    Noun("concert", "das Konzert", "le concert"),
    Noun("exam", "die Prüfung", "l'examen"),
    Noun("conference", "die Konferenz", "la conférence", feminine=True),
    Noun("course", "der Kurs", "le cours"),
    Noun("wedding", "die Hochzeit", "le mariage"),
    Noun("party", "die Feier", "la fête", feminine=True),
    Noun("election", "die Wahl", "l'élection", feminine=True),
    Noun("exhibition", "die Ausstellung", "l'exposition", feminine=True),
    Noun("festival", "das Festival", "le festival"),
    Noun("game", "das Spiel", "le match"),
    Noun("interview", "das Interview", "l'interview", feminine=True),
)

GOODS = (
    Noun("book", "das Buch", "le livre"),
    Noun("ticket", "die Fahrkarte", "le billet"),
    Noun("bicycle", "das Fahrrad", "le vélo"),
    Noun("coat", "der Mantel", "le manteau"),
    Noun("lamp", "die Lampe", "la lampe", feminine=True),
    Noun("chair", "der Stuhl", "la chaise", feminine=True),
    Noun("table", "der Tisch", "la table", feminine=True),
    Noun("watch", "die Uhr", "la montre", feminine=True),
    Noun("camera", "die Kamera", "l'appareil photo"),
    Noun("suitcase", "der Koffer", "la valise", feminine=True),
    Noun("picture", "das Bild", "le tableau"),
    Noun("shirt", "das Hemd", "la chemise", feminine=True),
)

PLACES = (
    Noun("museum", "das Museum", "le musée"),
    Noun("library", "die Bibliothek", "la bibliothèque", feminine=True),
    Noun("bakery", "die Bäckerei", "la boulangerie", feminine=True),
    Noun("pharmacy", "die Apotheke", "la pharmacie", feminine=True),
    Noun("restaurant", "das Restaurant", "le restaurant"),
    Noun("bank", "die Bank", "la banque", feminine=True),
    Noun("zoo", "der Zoo", "le zoo"),
    Noun("market", "der Markt", "le marché"),
    Noun("office", "das Büro", "le bureau"),
    Noun("supermarket", "der Supermarkt", "le supermarché"),
)

VEHICLES = (Noun("train", "der Zug", "le train"), Noun("bus", "der Bus", "le bus"))

LASTING = (
    Noun("trip", "die Reise", "le voyage"),
    Noun("flight", "der Flug", "le vol"),
    Noun("film", "der Film", "le film"),
    Noun("break", "die Pause", "la pause", feminine=True),
    Noun("course", "der Kurs", "le cours"),
    Noun("meeting", "das Treffen", "la réunion", feminine=True),
)

COUNTED = (
    Noun("day", "der Tag", "le jour"),
    Noun("week", "die Woche", "la semaine", feminine=True),
    Noun("year", "das Jahr", "l'année", feminine=True),
    Noun("chapter", "das Kapitel", "le chapitre"),
    Noun("lesson", "die Lektion", "la leçon", feminine=True),
    Noun("row", "die Reihe", "la rangée", feminine=True),
    Noun("question", "die Frage", "la question", feminine=True),
    Noun("attempt", "der Versuch", "l'essai"),
)

GUESTS = (  # plurals, masculine in French
    Noun("guests", "die Gäste", "les invités"),
    Noun("students", "die Studenten", "les étudiants"),
    Noun("children", "die Kinder", "les enfants"),
)

PERSONS = (  # English, German, French, whether a woman
    ("Anna", "Anna", "Anna", True),
    ("Paul", "Paul", "Paul", False),
    ("Julia", "Julia", "Julia", True),
    ("Thomas", "Thomas", "Thomas", False),
    ("he", "er", "il", False),
    ("she", "sie", "elle", True),
)

CITIES = (
    ("Berlin", "Berlin", "Berlin"),
    ("Paris", "Paris", "Paris"),
    ("Vienna", "Wien", "Vienne"),
    ("Rome", "Rom", "Rome"),
    ("London", "London", "Londres"),
    ("Brussels", "Brüssel", "Bruxelles"),
    ("Geneva", "Genf", "Genève"),
    ("Munich", "München", "Munich"),
)

SEASONS = (
    ("in the spring", "im Frühling", "au printemps"),
    ("in the summer", "im Sommer", "en été"),
    ("in the fall", "im Herbst", "en automne"),
    ("in the winter", "im Winter", "en hiver"),
)


@dataclass(frozen=True)
class TimeUnit:
    """A unit of time.

    Args:
        en: singular; the plural takes an s. Also CLDR's name of the unit.
        de: nominative singular, plural, and dative plural.
        fr: singular and plural.
        gender: of the German noun. The French one is feminine exactly where the German one is.
        largest: number of units up to which people count.
    """

    en: str
    de: tuple[str, str, str]
    fr: tuple[str, str]
    gender: Literal["m", "f", "n"]
    largest: int


TIME_UNITS = {
    unit.en: unit
    for unit in (
        TimeUnit("second", ("Sekunde", "Sekunden", "Sekunden"), ("seconde", "secondes"), "f", 90),
        TimeUnit("minute", ("Minute", "Minuten", "Minuten"), ("minute", "minutes"), "f", 90),
        TimeUnit("hour", ("Stunde", "Stunden", "Stunden"), ("heure", "heures"), "f", 48),
        TimeUnit("day", ("Tag", "Tage", "Tagen"), ("jour", "jours"), "m", 99),
        TimeUnit("week", ("Woche", "Wochen", "Wochen"), ("semaine", "semaines"), "f", 52),
        TimeUnit("month", ("Monat", "Monate", "Monaten"), ("mois", "mois"), "m", 36),
        TimeUnit("year", ("Jahr", "Jahre", "Jahren"), ("an", "ans"), "n", 99),
    )
}


@cache
def month_names(language: Language, width: Literal["wide", "abbreviated"] = "wide") -> tuple[str, ...]:
    """January to December."""
    names = get_month_names(width, locale=LOCALES[language])
    return tuple(names[month] for month in range(1, 13))


@cache
def day_names(language: Language) -> tuple[str, ...]:
    """Monday to Sunday."""
    names = get_day_names("wide", locale=LOCALES[language])
    return tuple(names[day] for day in range(7))
