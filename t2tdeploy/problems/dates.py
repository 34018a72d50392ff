"""Dates, times, ordinals, amounts and durations into German and French: data that need no download.

The words and number formats are CLDR's (through Babel) and num2words'. Whether an English phrase belongs to train,
dev or test is decided by its hash, so no source is ever in two splits; none comes twice within one; and each has one
translation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from t2tdeploy.problems.phrasebook.draw import phrase_pairs
from t2tdeploy.problems.problem import ProblemOptions, TextToText
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_HASH_BUCKETS = 42  # one for dev, one for test, 40 for train: the shares of 500, 500 and 20 000


class DatesOptions(ProblemOptions):
    """A small joint vocabulary, and how many pairs are made."""

    vocab_size: int = Field(800, ge=8, description="entries of the vocabulary, 256 bytes and reserved ids included")
    train_examples: int = Field(20_000, ge=1, le=200_000, description="pairs of train")
    dev_examples: int = Field(500, ge=1, le=5000, description="pairs of dev")
    test_examples: int = Field(500, ge=1, le=5000, description="pairs of test")
    seed: int = Field(0, ge=0, description="of the random draws; another seed makes another corpus")


class _Dates(TextToText):
    """English into `target_language`."""

    options_class = DatesOptions
    default_hparams = (  # for transformer_tiny: a few thousand small steps, minutes on two CPU cores
        "batch_size=512,max_length=64,train_steps=4000,learning_rate_constant=0.32,learning_rate_warmup_steps=200,"
        "dropout=0,attention_dropout=0,relu_dropout=0,extra_length=30"
    )
    options: DatesOptions
    target_language: ClassVar[Literal["de", "fr"]]

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        del source_dir, reporter  # nothing is read or fetched
        options = self.options
        sizes = (options.train_examples, options.dev_examples, options.test_examples)
        for source, target in _corpus(self.target_language, sizes, options.seed)[split]:
            yield {"inputs": source, "targets": target}


@register_problem
class TranslateDatesEnde(_Dates):
    """Dates, times, ordinals, amounts, embedded: English to German."""

    target_language = "de"


@register_problem
class TranslateDatesEnfr(_Dates):
    """Dates, times, ordinals, amounts, embedded: English to French."""

    target_language = "fr"


def split_of(source: str) -> str:
    """The split an English phrase belongs to."""
    bucket = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) % _HASH_BUCKETS
    return {0: "dev", 1: "test"}.get(bucket, "train")


@lru_cache(maxsize=2)
def _corpus(
    language: Literal["de", "fr"], sizes: tuple[int, int, int], seed: int
) -> dict[str, tuple[tuple[str, str], ...]]:
    """All splits at once: a draw that is not for one split is for another."""
    wanted = dict(zip(("train", "dev", "test"), sizes, strict=True))
    found: dict[str, dict[str, str]] = {split: {} for split in wanted}
    for source, target in phrase_pairs(language, seed):
        pairs = found[split_of(source)]
        if len(pairs) < wanted[split_of(source)]:
            pairs.setdefault(source, target)
        if all(len(found[split]) == size for split, size in wanted.items()):
            break
    return {split: tuple(pairs.items()) for split, pairs in found.items()}
