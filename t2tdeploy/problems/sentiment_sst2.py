"""SST-2: sentences of film reviews, negative or positive (Socher et al. 2013), whole sentences only.

Train 6 920, dev 872, test 1 821 sentences, lower-case and tokenized, one `sentence<TAB>label` a line, as published in
github.com/clairett/pytorch-sentiment-classification, data/SST2. (GLUE's SST-2 trains on 67 349 phrases of the same
sentences, and does not publish the labels of test.) That repository has no releases, so the addresses name its movable
branch `master`, as for Multi30k; checksums hold the content fixed.

The files have plain names, so in `--source-dir` they lie, or are downloaded to, in the folder `sst2`; a folder that
holds all three itself will do as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.problems.problem import Sample, TextOptions, TextToClass
from t2tdeploy.problems.row_files import Column, read_rows
from t2tdeploy.problems.sources import Source, fetch
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_FOLDER = "sst2"
_URLS = (
    "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2",
    "https://github.com/clairett/pytorch-sentiment-classification/raw/master/data/SST2",
    "https://cdn.jsdelivr.net/gh/clairett/pytorch-sentiment-classification@master/data/SST2",
)
_SHA256 = {
    "train.tsv": "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
    "dev.tsv": "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
    "test.tsv": "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
}
_COLUMNS = (Column("0"), Column("1"))


class SentimentSst2Options(TextOptions):
    """A vocabulary for few, short sentences, and where these come from."""

    not_of_the_data = frozenset({"mirror"})

    vocab_size: int = Field(8000, ge=8, description="entries of the vocabulary, reserved ids included")
    mirror: str | None = Field(
        None,
        pattern="^https?://",
        description="address of a folder with the published files, to download from instead; checksums hold there too",
    )


@register_problem
class SentimentSst2(TextToClass):
    """SST-2: is a sentence of a film review negative or positive?"""

    options_class = SentimentSst2Options
    options: SentimentSst2Options
    classes = ("negative", "positive")

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        folder = source_dir if all((source_dir / name).is_file() for name in _SHA256) else source_dir / _FOLDER
        path = fetch(self._source(f"{split}.tsv"), folder, reporter=reporter)
        for row in read_rows(path, "tsv", _COLUMNS, self.bad_lines):
            text, label = row.texts
            if label not in ("0", "1"):
                raise CorruptFileError(path, f"line {row.number} has the label '{label}', which is neither 0 nor 1")
            yield {"inputs": text, "targets": self.classes[int(label)]}

    def _source(self, name: str) -> Source:
        folders = _URLS if self.options.mirror is None else (self.options.mirror.rstrip("/"),)
        return Source(name, tuple(f"{folder}/{name}" for folder in folders), _SHA256[name])
