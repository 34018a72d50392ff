"""The user's own parallel text, by path: two text files, TSV, JSON lines or Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from heapq import heappush, heappushpop
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from t2tdeploy.errors import InputError, nearest
from t2tdeploy.problems.pair_files import format_of, read_pair_file
from t2tdeploy.problems.problem import ProblemOptions, TextToText
from t2tdeploy.problems.text import BadLines, read_pairs
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem


def _as_paths(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


PlacedPair = tuple[int, dict[str, str]]  # number of the pair in train, from 0, and the pair
HeldOut = dict[str, dict[int, PlacedPair]]  # split -> hash of a pair -> the pair

Paths = Annotated[tuple[str, ...], BeforeValidator(_as_paths), Field(min_length=1, max_length=2)]


class PairsOptions(ProblemOptions):
    """Where the pairs are. Relative paths are looked up in `--source-dir`."""

    train: Paths | None = Field(None, description="one file of pairs, or two text files as [source,target]; .gz, .zst")
    dev: Paths | None = Field(None, description="like train; none: held out of train")
    test: Paths | None = Field(None, description="like train; none: held out of train")
    format: Literal["auto", "text", "tsv", "jsonl", "parquet"] = Field("auto", description="auto: by the file's suffix")
    inputs_column: str | None = Field(
        None, min_length=1, description="name of the source column, or its number from 0 in TSV without a header"
    )
    targets_column: str | None = Field(None, min_length=1, description="the same for the target column")
    held_out_dev: int | None = Field(
        1000, ge=1, description="pairs held out of train where dev is not given, at most a tenth; none: no dev"
    )
    held_out_test: int | None = Field(
        1000, ge=1, description="pairs held out of train where test is not given, at most a tenth; none: no test"
    )


@register_problem
class TranslatePairs(TextToText):
    """Your own pairs from TSV, text, JSON lines or Parquet.

    Where dev or test is not given, the distinct pairs with the smallest hashes are held out of train: the same ones
    whatever the order of the lines. Further copies of a held-out pair are left out of train and counted.
    """

    options_class = PairsOptions
    options: PairsOptions

    def __init__(self, options: PairsOptions) -> None:
        super().__init__(options)
        self.paths = {"train": options.train, "dev": options.dev, "test": options.test}

    def prepare(self, source_dir: Path, reporter: Reporter) -> HeldOut:
        """Chooses what is held out, in one pass over train."""
        if self.paths["train"] is None:
            raise InputError(
                f"problem '{self.name}' needs its data: train is not set",
                help="set train=pairs.tsv, or train=[corpus.en,corpus.de]",
            )
        wanted = {
            split: count
            for split, count in (("dev", self.options.held_out_dev), ("test", self.options.held_out_test))
            if self.paths[split] is None and count is not None
        }
        if not wanted:
            return {}
        smallest, pairs = _Smallest(sum(wanted.values())), 0
        for sample in self._read("train", source_dir, BadLines()):  # train reports the faults of its file
            smallest.add(_hash(sample), (pairs, sample))
            pairs += 1
        chosen = iter(sorted(smallest.values.items()))
        held_out: HeldOut = {}
        for split, count in wanted.items():
            count = min(count, pairs // 10)
            held_out[split] = dict(islice(chosen, count))
            reporter.message(f"{self.name}: {count} of {pairs} pairs are held out of train for {split}")
        return held_out

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        if self.prepared is None:
            self.prepared = self.prepare(source_dir, reporter)
        if split != "train" and self.paths[split] is not None:
            yield from self._read(split, source_dir, self.bad_lines)
        elif split == "train":
            yield from self._train_without(set().union(*self.prepared.values()), source_dir)
        else:
            for _, sample in sorted(self.prepared.get(split, {}).values(), key=itemgetter(0)):
                yield sample

    def _train_without(self, held_out: set[int], source_dir: Path) -> Iterator[dict[str, str]]:
        seen = set()
        samples = self._read("train", source_dir, self.bad_lines)
        if not held_out:  # nothing to look for
            yield from samples
            return
        for number, sample in enumerate(samples, start=1):
            key = _hash(sample)
            if key not in held_out:
                yield sample
            elif key in seen:
                self.bad_lines.add("pairs of train", number, "copy of a held-out pair")
            else:
                seen.add(key)

    def _read(self, split: str, source_dir: Path, bad_lines: BadLines) -> Iterator[dict[str, str]]:
        options, names = self.options, self.paths[split] or ()
        paths = [_existing(source_dir / Path(name).expanduser(), split) for name in names]
        file_format = options.format
        if file_format == "auto":
            file_format = "text" if len(paths) == 2 else format_of(paths[0])
        if file_format == "text" and len(paths) == 2:
            return read_pairs(paths[0], paths[1], bad_lines)
        if file_format == "text" or len(paths) == 2:
            raise InputError(
                f"{split} is {len(paths)} file{'s' * (len(paths) - 1)}, but format={file_format}",
                help="text is two files, [source,target]; tsv, jsonl and parquet are one file",
            )
        return read_pair_file(paths[0], file_format, (options.inputs_column, options.targets_column), bad_lines)


class _Smallest:
    """The `count` smallest distinct keys of a stream, each with the value it first came with."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[int] = []  # negated: the largest kept key first
        self.values: dict[int, PlacedPair] = {}

    def add(self, key: int, value: PlacedPair) -> None:
        if key in self.values:
            return
        if len(self._heap) < self._count:
            heappush(self._heap, -key)
        elif (dropped := -heappushpop(self._heap, -key)) != key:
            del self.values[dropped]
        else:
            return
        self.values[key] = value


def _hash(sample: dict[str, str]) -> int:
    text = f"{sample['inputs']}\t{sample['targets']}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _existing(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{split}: {path} is a folder, not a file", path=path)
    if not path.parent.is_dir():
        raise InputError(f"{split}: there is no folder {path.parent}", path=path, help="relative to --source-dir")
    close = nearest(path.name, (other.name for other in path.parent.iterdir()))
    raise InputError(
        f"{split}: there is no file {path}",
        path=path,
        help=f"did you mean '{close}'?" if close else "a relative path is looked up in --source-dir",
    )
