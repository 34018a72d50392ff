"""Graphs and vocabularies that several files of tests share."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from t2tdeploy.tokenizer import Tokenizer, train_tokenizer

SENTENCES = (
    "Two young, White males are outside near many bushes.",
    "Several men in hard hats are operating a giant pulley system.",
    "A little girl climbing into a wooden playhouse.",
    "Ein kleines Mädchen klettert in ein Spielhaus aus Holz.",
    "Zwei Männer stehen am Herd und bereiten Essen zu.",
    "Ein Mann in grün hält eine Gitarre, während der andere Mann sein Hemd ansieht.",
)


@pytest.fixture(scope="session")
def vocabulary() -> Tokenizer:
    return train_tokenizer(SENTENCES * 20, kind="unigram", vocab_size=400, sample_size=200)


@pytest.fixture(scope="session")
def multi30k_test() -> list[str]:
    """The English side of test_2016_flickr."""
    folder = os.environ.get("T2TDEPLOY_TEST_DATA")
    if not folder:
        pytest.skip("T2TDEPLOY_TEST_DATA does not name a folder with multi30k/")
    content = gzip.decompress((Path(folder) / "multi30k" / "test_2016_flickr.en.gz").read_bytes())
    return content.decode("utf-8").split("\n")[:-1]
