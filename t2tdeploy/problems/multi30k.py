"""Multi30k (Elliott et al. 2016, 2017; Barrault et al. 2018): captions of pictures, text only.

Train 29 000, dev 1 014, test (test_2016_flickr) 1 000 pairs, as published in github.com/multi30k/dataset. That
repository has no releases, so the addresses name its movable branch `master`: the first is GitHub's own host for files,
the second the repository's page, which redirects there, the third jsDelivr, which serves copies of public repositories
from hosts of its own. Whichever answers, checksums hold the content fixed. The English and German files are held to
SHA-256. Of the French and Czech ones we know the MD5 alone, from the tables that earlier versions of torchtext had
(their values for English and German are those of our files): they are held to that, and the SHA-256 of the first
download is recorded beside the file (FILE.sha256) and holds from then on.
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

_URLS = (
    "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw",
    "https://github.com/multi30k/dataset/raw/master/data/task1/raw",
    "https://cdn.jsdelivr.net/gh/multi30k/dataset@master/data/task1/raw",
)
_FILES = {"train": "train", "dev": "val", "test": "test_2016_flickr"}
_SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}
_MD5 = {
    "train.fr.gz": "6cb767741dcad3931f966fefbc05203f",
    "train.cs.gz": "d9a5fc268917725a2b0efce3a0cc8607",
    "val.fr.gz": "93fc564584b7e5ba410c761ea5a1c682",
    "val.cs.gz": "83cdc082f646b769095615384cf5c0ca",
    "test_2016_flickr.fr.gz": "08dc7cd4a662f31718412de95ca9bfe3",
    "test_2016_flickr.cs.gz": "3104872229daa1bef3b401d44dd2220b",
}


class Multi30kOptions(ProblemOptions):
    """A joint vocabulary fit for 29 000 short sentences, and where these come from."""

    not_of_the_data = frozenset({"mirror"})

    vocab_size: int = Field(6000, ge=8, description="entries of each vocabulary, reserved ids included")
    mirror: str | None = Field(
        None,
        pattern="^https?://",
        description="address of a folder with the published files, to download from instead; checksums hold there too",
    )


class _Multi30k(TextToText):
    """English into `target_language`; captions may lie in `--source-dir` as published or decompressed."""

    options_class = Multi30kOptions
    options: Multi30kOptions
    target_language: ClassVar[str]

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        inputs, targets = (
            fetch(self._source(f"{_FILES[split]}.{language}.gz"), source_dir, reporter=reporter)
            for language in ("en", self.target_language)
        )
        yield from read_pairs(inputs, targets, self.bad_lines)

    def _source(self, name: str) -> Source:
        folders = _URLS if self.options.mirror is None else (self.options.mirror.rstrip("/"),)
        return Source(name, tuple(f"{folder}/{name}" for folder in folders), _SHA256.get(name), _MD5.get(name))


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
