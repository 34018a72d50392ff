"""The user's own parallel text, by path: two text files, TSV, CSV, JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from t2tdeploy.errors import InputError, nearest
from t2tdeploy.problems.held_out import splits_to_hold_out
from t2tdeploy.problems.held_out_texts import HeldOut, choose_held_out, in_order, text_key, train_without
from t2tdeploy.problems.problem import ProblemOptions, Sample, TextToText
from t2tdeploy.problems.row_files import Column, RowFormat, format_of, read_rows
from t2tdeploy.problems.text import BadLines, read_pairs
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem


def _as_paths(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_paths), Field(min_length=1, max_length=2)]


class PairsOptions(ProblemOptions):
    """Where the pairs are. Relative paths are looked up in `--source-dir`."""

    train: Paths | None = Field(None, description="one file of pairs, or two text files as [source,target]; .gz, .zst")
    dev: Paths | None = Field(None, description="like train; none: held out of train")
    test: Paths | None = Field(None, description="like train; none: held out of train")
    format: Literal["auto", "text", "tsv", "csv", "jsonl", "parquet"] = Field(
        "auto", description="auto: by the file's suffix"
    )
    separator: str | None = Field(None, min_length=1, max_length=1, description="of the values of CSV or TSV, e.g. ;")
    inputs_column: str | None = Field(
        None, min_length=1, description="name of the source column, or its number from 0 in TSV or CSV without a header"
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
    """Your own pairs from TSV, CSV, text, JSON lines or Parquet.

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
        options = self.options
        wanted = splits_to_hold_out(self.paths, {"dev": options.held_out_dev, "test": options.held_out_test})
        if not wanted:
            return {}
        samples = self._read("train", source_dir, BadLines())  # train reports the faults of its file
        held_out, pairs = choose_held_out(samples, _key, wanted)
        for split, found in held_out.items():
            reporter.message(f"{self.name}: {len(found)} of {pairs} pairs are held out of train for {split}")
        return held_out

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        if self.prepared is None:
            self.prepared = self.prepare(source_dir, reporter)
        if split != "train" and self.paths[split] is not None:
            yield from self._read(split, source_dir, self.bad_lines)
        elif split == "train":
            samples = self._read("train", source_dir, self.bad_lines)
            yield from train_without(samples, _key, self.prepared, self.bad_lines, what="pair")
        else:
            yield from in_order(self.prepared.get(split, {}))

    def _read(self, split: str, source_dir: Path, bad_lines: BadLines) -> Iterator[Sample]:
        options, names = self.options, self.paths[split] or ()
        paths = [existing_file(source_dir / Path(name).expanduser(), split) for name in names]
        file_format = options.format
        if file_format == "auto":
            file_format = "text" if len(paths) == 2 else format_of(paths[0])
        if file_format == "text" and len(paths) == 2:
            if options.separator is None:
                return read_pairs(paths[0], paths[1], bad_lines)
            raise InputError(
                f"{split} is two text files, which have no separator, but separator = '{options.separator}'",
                help="leave separator out, or give one file of CSV or TSV",
            )
        if file_format == "text" or len(paths) == 2:
            raise InputError(
                f"{split} is {len(paths)} file{'s' * (len(paths) - 1)}, but format={file_format}",
                help="text is two files, [source,target]; tsv, csv, jsonl and parquet are one file",
            )
        columns = options.inputs_column, options.targets_column
        return read_pair_file(paths[0], file_format, columns, bad_lines, options.separator)


def read_pair_file(
    path: Path,
    file_format: RowFormat,
    columns: tuple[str | None, str | None],
    bad_lines: BadLines,
    separator: str | None = None,
) -> Iterator[Sample]:
    """The pairs of a file as {"inputs", "targets"}, surrounding white space removed.

    Args:
        columns: where the two sides stand, see `row_files.Column`. None: columns 0 and 1 of TSV, `inputs` and
            `targets` elsewhere.
        separator: see `row_files.read_rows`.

    Raises:
        InputError: see `row_files.read_rows`.
        CorruptFileError: the file is damaged or cut off.
    """
    defaults = ("0", "1") if file_format == "tsv" else ("inputs", "targets")
    wanted = [Column(column or default) for column, default in zip(columns, defaults, strict=True)]
    for row in read_rows(path, file_format, wanted, bad_lines, separator=separator):
        yield {"inputs": row.texts[0], "targets": row.texts[1]}


def _key(sample: Sample) -> int:
    return text_key(f"{sample['inputs']}\t{sample['targets']}")


def existing_file(path: Path, split: str) -> Path:
    """`path` itself.

    Args:
        split: the option that names it.

    Raises:
        InputError: it is no file (with the nearest name in its folder).
    """
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
