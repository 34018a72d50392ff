"""The embedded corpus: its splits, its function from source to target, and its grammar."""

from __future__ import annotations

import random
import re
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pytest
from babel.dates import format_date, format_timedelta
from babel.units import format_unit

from t2tdeploy import registry
from t2tdeploy.models.transformer_hparams import transformer_tiny
from t2tdeploy.problems import dates
from t2tdeploy.problems.dates import DatesOptions, split_of
from t2tdeploy.problems.phrasebook import amount_slots, calendar_slots
from t2tdeploy.problems.phrasebook.draw import SLOTS, phrase_pairs
from t2tdeploy.problems.phrasebook.lexicon import LOCALES, TIME_UNITS
from t2tdeploy.problems.phrasebook.numerals import amount, cardinal, digits, ordinal_digits, ordinal_words
from t2tdeploy.problems.phrasebook.templates import TEMPLATES
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.progress import SilentReporter
from t2tdeploy.tokenizer import train_tokenizer

NAMES = ("translate_dates_ende", "translate_dates_enfr")
SIZES = {"train": 2000, "dev": 50, "test": 50}


def samples(name: str, split: str, **options: int) -> list[tuple[str, str]]:
    sizes = {f"{split}_examples": size for split, size in SIZES.items()}
    problem = get_problem(name)(DatesOptions.create({**sizes, **options}))
    found = problem.generate_samples(split, Path("unused"), SilentReporter())
    return [(sample["inputs"], sample["targets"]) for sample in found]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_as_asked_and_splits_share_no_source(name: str) -> None:
    sources = {split: [source for source, _ in samples(name, split)] for split in SIZES}
    assert {split: len(found) for split, found in sources.items()} == SIZES
    everything = [source for found in sources.values() for source in found]
    assert len(set(everything)) == len(everything)
    assert all(split_of(source) == split for split, found in sources.items() for source in found)


@pytest.mark.parametrize("name", NAMES)
def test_same_options_same_corpus_and_another_seed_another_one(name: str) -> None:
    first = samples(name, "dev")
    dates._corpus.cache_clear()
    assert samples(name, "dev") == first
    assert samples(name, "dev", seed=1) != first


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one() -> None:
    large, small = samples(NAMES[0], "train"), samples(NAMES[0], "train", train_examples=300)
    assert large[:300] == small


def test_both_problems_have_the_same_english() -> None:
    assert [source for source, _ in samples(NAMES[0], "test")] == [source for source, _ in samples(NAMES[1], "test")]


@pytest.mark.parametrize("language", ["de", "fr"])
def test_one_source_has_one_target(language: str) -> None:
    known: dict[str, str] = {}
    repeats = 0
    for seed in (0, 1, 2):
        for source, target in islice(phrase_pairs(language, seed), 8000):  # type: ignore[arg-type]
            repeats += source in known
            assert known.setdefault(source, target) == target
    assert repeats > 1000  # else nothing was compared


def test_every_template_speaks_every_language() -> None:
    rng = random.Random(0)
    slots = {name: slot(rng) for name, slot in SLOTS.items()}
    for template in TEMPLATES:
        for language, pattern in (("en", template.en), ("de", template.de), ("fr", template.fr)):
            text = pattern.format(**{name: slot[language] for name, slot in slots.items()})
            assert text == text.strip()
            assert "  " not in text
            assert not text.endswith("..")
            assert text.endswith((".", "?")) == template.en.endswith((".", "?"))


def test_the_time_units_agree_with_cldr() -> None:
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
    for unit in TIME_UNITS.values():
        for number in (1, 3):
            spoken = amount_slots._duration(unit, number, in_words=False)
            for language in ("en", "de", "fr"):
                written = format_unit(number, f"duration-{unit.en}", "long", locale=LOCALES[language])
                assert spoken[language]["nominative"] == written.replace("\u00a0", " ")
        if unit.en in seconds:
            ago = format_timedelta(-3 * seconds[unit.en], unit.en, threshold=99, add_direction=True, locale="de")
            assert f"vor {amount_slots._duration(unit, 3, in_words=False)['de']['dative']}" == ago


def test_plain_dates_agree_with_cldr() -> None:
    styles = {"{month} {day}, {year}": "long", "{weekday}, {month} {day}, {year}": "full"}
    for seed in range(200):
        rng = random.Random(seed)
        value = calendar_slots._draw_date(rng, 1950, 2049)
        pattern = rng.choice(calendar_slots._DATE_STYLES).pattern
        spoken = calendar_slots.date(random.Random(seed))
        if pattern in styles:
            for language in ("en", "de", "fr"):
                written = format_date(value, styles[pattern], locale=LOCALES[language])
                if language == "fr" and value.day == 1:
                    written = written.replace("1 ", "1er ", 1)
                assert spoken[language]["bare"] == written  # type: ignore[index]


@pytest.mark.parametrize(
    ("number", "english", "german", "french", "feminine"),
    [
        (1, "one", "eins", "un", "une"),
        (21, "twenty-one", "einundzwanzig", "vingt et un", "vingt et une"),
        (71, "seventy-one", "einundsiebzig", "soixante et onze", "soixante et onze"),
        (80, "eighty", "achtzig", "quatre-vingts", "quatre-vingts"),
        (81, "eighty-one", "einundachtzig", "quatre-vingt-un", "quatre-vingt-une"),
        (200, "two hundred", "zweihundert", "deux cents", "deux cents"),
        (216, "two hundred and sixteen", "zweihundertsechzehn", "deux cent seize", "deux cent seize"),
        (80_000, "eighty thousand", "achtzigtausend", "quatre-vingt mille", "quatre-vingt mille"),
    ],
)
def test_cardinals(number: int, english: str, german: str, french: str, feminine: str) -> None:
    assert [cardinal(number, "en"), cardinal(number, "de"), cardinal(number, "fr")] == [english, german, french]
    assert cardinal(number, "fr", feminine=True) == feminine


def test_ordinals() -> None:
    assert [ordinal_digits(n, "en") for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd"]
    )
    assert [ordinal_digits(1, "fr"), ordinal_digits(1, "fr", feminine=True)] == ["1er", "1re"]
    assert [ordinal_digits(2, "fr", feminine=True), ordinal_digits(3, "de")] == ["2e", "3."]
    assert [ordinal_words(n, "de") for n in (1, 3, 7, 20)] == ["erste", "dritte", "siebte", "zwanzigste"]
    assert [ordinal_words(1, "fr", feminine=True), ordinal_words(5, "fr")] == ["première", "cinquième"]


def test_amounts() -> None:
    assert [digits(1234567, language) for language in ("en", "de", "fr")] == ["1,234,567", "1.234.567", "1 234 567"]
    price = Decimal("1234.50")
    assert [amount(price, "EUR", language) for language in ("en", "de", "fr")] == [
        "€1,234.50",
        "1.234,50 €",
        "1 234,50 €",
    ]
    assert amount(price, "CHF", "en") == "CHF 1,234.50"


@pytest.mark.parametrize(
    ("english", "german", "french"),
    [
        ("half past three", "halb vier", "trois heures et demie"),
        ("one o'clock", "ein Uhr", "une heure"),
        ("quarter to two", "Viertel vor zwei", "deux heures moins le quart"),
        ("one month ago", "vor einem Monat", "il y a un mois"),
        ("in one week", "in einer Woche", "dans une semaine"),
        ("the 1st week", "die 1. Woche", "la 1re semaine"),
        ("It is half past one.", "Es ist halb zwei.", "Il est une heure et demie."),
    ],
)
def test_translations_known_to_be_right(
    english: str, german: str, french: str, many: dict[str, dict[str, str]]
) -> None:
    assert (many["de"][english], many["fr"][english]) == (german, french)


WEEKDAYS = "(Montag|Dienstag|Mittwoch|Donnerstag|Freitag|Samstag|Sonntag)"


@pytest.mark.parametrize(
    ("english", "german", "french"),
    [
        (r" is on \w+day, \w+ \d+\.", rf" ist am {WEEKDAYS}, dem \d+\. \w+\.", r" est le \w+ \d+(er)? \w+\."),
        (r"Today is \w+day, ", rf"Heute ist {WEEKDAYS}, der \d+\. ", r"Aujourd'hui, nous sommes le \w+ \d+(er)? "),
        (
            r"postponed .* to \w+day, ",
            rf" auf {WEEKDAYS}, den \d+\. .* verschoben\.",
            r"Nous avons reporté .* au \w+ \d",
        ),
        (r"closed until [A-Z]\w+ 2\d\.", r" bis zum 2\d\. \w+ geschlossen\.", r" est fermée? jusqu'au 2\d "),
        (r"^(Anna|Julia|She) was born", r" wurde am .* geboren\.$", r" est née le "),
        (r"^(Paul|Thomas|He) stayed", r" ist .* geblieben\.$", r" est resté "),
        (r"^three (day|month|year)s ago$", r"^vor drei (Tag|Monat|Jahr)en$", r"^il y a trois (jours|mois|ans)$"),
        (r"the first (attempt|day|chapter)", r"(der|das) erste \w+", r"le premier \w+"),
        (r"^next Monday at 3", r"^nächsten Montag um (3|15)", r"^lundi prochain à (3|15) h"),
        (r" is sixty-one years old", r" ist einundsechzig Jahre alt", r" a soixante et un ans"),
        (
            r"^The museum opens at 9 AM on",
            r"^Das Museum öffnet \w+tags um 9 Uhr|mittwochs",
            r"^Le musée ouvre à 9 h le ",
        ),
        (r"\w+ 1(st)?(, \d{4})?$", r"1\.", r"1er "),
        (r"for the (coat|chair|table|suitcase)\.", r" für den \w+ bezahlt\.$", r" pour l[ea] \w+\.$"),
        (r"guests came to the (exam|party|conference)\.", r"Gäste kamen zur ", r" invités sont venus à "),
    ],
)
def test_grammar(english: str, german: str, french: str, many: dict[str, dict[str, str]]) -> None:
    found = [source for source in many["de"] if re.search(english, source)]
    assert found
    for source in found:
        assert re.search(german, many["de"][source]), (source, many["de"][source])
        assert re.search(french, many["fr"][source]), (source, many["fr"][source])


@pytest.fixture(scope="module")
def many() -> dict[str, dict[str, str]]:
    return {language: dict(islice(phrase_pairs(language, 0), 40_000)) for language in ("de", "fr")}  # type: ignore[arg-type]


def test_sequences_are_short_enough_for_a_tiny_model() -> None:
    for name in NAMES:
        pairs = samples(name, "train")
        vocabulary = train_tokenizer(
            (text for pair in pairs for text in pair), kind="unigram", vocab_size=800, sample_size=4000
        )
        for side in (0, 1):
            lengths = [len(vocabulary.encode(pair[side])) + 1 for pair in pairs]
            assert sum(lengths) / len(lengths) < 14
            assert max(lengths) <= 64


def test_default_hparams_are_valid() -> None:
    for name in NAMES:
        hparams = transformer_tiny().override(get_problem(name).default_hparams)
        assert hparams.batch_size == 512


def test_both_are_registered_and_reversible() -> None:
    assert set(NAMES) <= set(registry.problems.names())
    source, target = samples(NAMES[0], "dev")[0]
    assert samples(f"{NAMES[0]}_rev", "dev")[0] == (target, source)
