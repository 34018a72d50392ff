"""Multi30k (Elliott et al. 2016, 2017; Barrault et al. 2018): captions of pictures, text only.

Train 29 000, dev 1 014, test (test_2016_flickr) 1 000 pairs, as published in github.com/multi30k/dataset. The
English and German files are held to known checksums. We know no checksums for French and Czech: those files are
taken as the server gives them, only their length and the gzip check value are verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from t2tdeploy.problems.problem import ProblemOptions, TextToText
from t2tdeploy.problems.sources import Source, fetch
from t2tdeploy.problems.text import read_pairs
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_FILES = {"train": "train", "dev": "val", "test": "test_2016_flickr"}
_SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}


class Multi30kOptions(ProblemOptions):
    """A joint vocabulary fit for 29 000 short sentences."""

    vocab_size: int = Field(6000, ge=8, description="entries of each vocabulary, reserved ids included")


class _Multi30k(TextToText):
    """English into `target_language`; captions may lie in `--source-dir` as published or decompressed."""

    options_class = Multi30kOptions
    target_language: ClassVar[str]

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        inputs, targets = (
            fetch(_source(f"{_FILES[split]}.{language}.gz"), source_dir, reporter=reporter)
            for language in ("en", self.target_language)
        )
        yield from read_pairs(inputs, targets, self.bad_lines)


def _source(name: str) -> Source:
    return Source(name, (f"{_URL}/{name}",), _SHA256.get(name))


@register_problem
class TranslateEndeMulti30k(_Multi30k):
    """Multi30k, captions of pictures: English to German."""

    target_language = "de"


@register_problem
class TranslateEnfrMulti30k(_Multi30k):
    """Multi30k, captions of pictures: English to French."""

    target_language = "fr"


@register_problem
class TranslateEncsMulti30k(_Multi30k):
    """Multi30k, captions of pictures: English to Czech."""

    target_language = "cs"
