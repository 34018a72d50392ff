"""IMDB: reviews of films, negative or positive (Maas et al. 2011): 25 000 to train on and 25 000 as test.

The published archive holds a file per review: `aclImdb/train/pos/127_10.txt` is the positive review number 127, with
ten stars. It is read as it is, in one pass per split, and never unpacked; if somebody did unpack it, the folder
`aclImdb` in `--source-dir` is read instead. dev has the training reviews with the highest numbers of each class, and
not a random choice, because reviews of one film have numbers that follow each other.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.problems.problem import Sample, TextOptions, TextToClass
from t2tdeploy.problems.sources import Source, fetch
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_ARCHIVE = "aclImdb_v1.tar.gz"
_FOLDER = "aclImdb"
_URLS = ("https://ai.stanford.edu/~amaas/data/sentiment",)
_REVIEW = re.compile(r"(?:.*/)?aclImdb/(?P<part>train|test)/(?P<label>neg|pos)/(?P<number>\d+)_\d+\.txt")
_REVIEWS_PER_CLASS = 12_500  # of train, and as many of test; numbers begin at 0
_CLASSES = {"neg": "negative", "pos": "positive"}
_LINE_BREAKS = re.compile(r"(?:<br\s*/?>\s*)+")

_Review = tuple[re.Match[str], bytes]  # its path, matched by _REVIEW, and what is in the file


class SentimentImdbOptions(TextOptions):
    """How long a review may be, how many are dev, and where the archive comes from."""

    not_of_the_data = frozenset({"mirror"})

    max_words: int | None = Field(400, ge=1, description="words of a review that are kept, the first ones; none: all")
    dev_reviews: int = Field(
        1250, ge=1, lt=_REVIEWS_PER_CLASS, description="training reviews of each class that are dev, the last ones"
    )
    mirror: str | None = Field(
        None,
        pattern="^https?://",
        description="address of a folder with the published archive, to download from instead; its checksum holds too",
    )


@register_problem
class SentimentImdb(TextToClass):
    """IMDB: is the review of a film negative or positive?"""

    options_class = SentimentImdbOptions
    default_hparams = "max_length=1024"  # 400 words are rarely more tokens than that
    options: SentimentImdbOptions
    classes = ("negative", "positive")
    sha256: ClassVar[str] = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        place = source_dir / _FOLDER
        if not place.is_dir():
            urls = _URLS if self.options.mirror is None else (self.options.mirror.rstrip("/"),)
            source = Source(_ARCHIVE, tuple(f"{url}/{_ARCHIVE}" for url in urls), self.sha256)
            place = fetch(source, source_dir, reporter=reporter)
        first_of_dev = _REVIEWS_PER_CLASS - self.options.dev_reviews
        found = False
        for path, content in _reviews(place, "test" if split == "test" else "train"):
            found = True
            in_dev = int(path["number"]) >= first_of_dev
            if split == "test" or in_dev == (split == "dev"):
                try:
                    text = self._text(content.decode("utf-8"))
                except UnicodeDecodeError:
                    self.bad_lines.add(path[0], 1, "not UTF-8")
                    continue
                yield {"inputs": text, "targets": _CLASSES[path["label"]]}
        if not found:
            raise InputError(
                f"{place} holds no reviews for {split}: nothing in it is called like {_FOLDER}/train/pos/127_10.txt",
                path=place,
                help="remove it to have the published archive downloaded, or put that there",
            )

    def _text(self, review: str) -> str:
        """The review without marks of line breaks, the only markup there is, and at most `max_words` long."""
        return " ".join(_LINE_BREAKS.sub(" ", review).split()[: self.options.max_words])


def _reviews(place: Path, part: str) -> Iterator[_Review]:
    """The labelled reviews of train or test: out of the archive in its order, out of a folder in that of numbers."""
    if place.is_dir():
        found = [match for file in (place / part).glob("*/*.txt") if (match := _REVIEW.fullmatch(file.as_posix()))]
        for path in sorted(found, key=lambda match: (match["label"], int(match["number"]))):
            yield path, Path(path[0]).read_bytes()
        return
    try:
        # tarfile's own decompression takes an archive that is cut off for one that is at its end.
        with gzip.open(place) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                path_in_archive = _REVIEW.fullmatch(member.name)
                if path_in_archive and path_in_archive["part"] == part and (review := archive.extractfile(member)):
                    yield path_in_archive, review.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise CorruptFileError(place, str(error), help="remove it to have it downloaded again") from error
