"""What is to be translated and how, and the numbered blocks that it is split into.

    output/part-00000-of-00012.parquet   one block: rows of one input file, in their order, with two columns more
           _corpus.json                  the settings that the parts were made with; written first
           _blocks/00000.json            a finished block: its part's checksum, what was left out of it and why
           _summary.json                 written last, when every part was checked
           _bad_rows.jsonl               rows that could not be translated as they are, if there are any

Names that start with `_` are not data to pyarrow, Spark and Ray, so they read the folder as one table.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from t2tdeploy.bundle import Bundle
from t2tdeploy.corpus.source import SourceFile
from t2tdeploy.decoding import BUNDLE_DEFAULTS, TranslateOptions
from t2tdeploy.errors import CorruptFileError, InputError, RunConflictError
from t2tdeploy.files import is_leftover, write_json

FORMAT_VERSION = 1
JOB, BLOCKS, SUMMARY, BAD_ROWS, LOCK = "_corpus.json", "_blocks", "_summary.json", "_bad_rows.jsonl", "_lock"

OnError = Literal["skip", "truncate", "fail"]


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` of one input file."""

    number: int
    file: Path
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class BadRow:
    """A row that could not be translated as it is.

    Args:
        row: of the input file, the first is 0.
    """

    file: str
    row: int
    reason: str


@dataclass(frozen=True)
class BlockRecord:
    """A finished block.

    Args:
        sha256: of its part.
        translated: rows that have a translation, blank ones among them.
        truncated: of these, rows whose source was cut.
        bad_rows: null, no text, or too long; where `on_error` is "truncate", those that were cut are not among them.
    """

    block: int
    part: str
    sha256: str
    rows: int
    translated: int
    truncated: int
    bad_rows: tuple[BadRow, ...] = ()

    def write(self, path: Path) -> None:
        """Writes the record, atomically."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record at `path`; None: there is none, or none that can be read."""
        try:
            fields = json.loads(path.read_bytes())
            return cls(**{**fields, "bad_rows": tuple(BadRow(**row) for row in fields["bad_rows"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class CorpusJob:
    """The translation of one column of Parquet files with one bundle.

    Args:
        files: in the order of the output; all with the same columns.
        bundle_dir: where workers load the bundle from; the same content for all of them, see `bundle`.
        bundle: its name and version.
        output: the folder of the parts.
        options: how to decode; what they leave out is the bundle's default.
        on_error: of rows that are null, no text, or too long for the model. "skip" leaves their translation null,
            "truncate" cuts those that are too long and skips the others, "fail" stops at the first.
        block_rows: rows of a block, at most.
    """

    files: tuple[SourceFile, ...]
    bundle_dir: Path
    bundle: str
    variant: str
    output: Path
    column: str
    translation_column: str
    score_column: str
    options: TranslateOptions
    on_error: OnError
    block_rows: int

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def blocks(self) -> list[Block]:
        """All blocks, numbered in the order of files and rows."""
        spans = [
            (file.path, start, min(start + self.block_rows, file.rows))
            for file in self.files
            for start in range(0, file.rows, self.block_rows)
        ]
        return [Block(number, *span) for number, span in enumerate(spans)]

    @property
    def num_blocks(self) -> int:
        return sum(math.ceil(file.rows / self.block_rows) for file in self.files)

    def part(self, block: int) -> Path:
        """Where a block's rows go."""
        width = max(5, len(str(self.num_blocks - 1)))  # so that the order of names is that of blocks
        return self.output / f"part-{block:0{width}d}-of-{self.num_blocks:05d}.parquet"

    def record(self, block: int) -> Path:
        """Where it is noted that a block is finished."""
        return self.output / BLOCKS / f"{block:05d}.json"

    def settings(self) -> dict[str, Any]:
        """Everything that the content of the parts depends on, by name; equal settings give equal parts."""
        unset = dataclasses.asdict(BUNDLE_DEFAULTS)
        options = {
            f"options.{name}": list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self.options).items()
            if value is not unset[name] and value not in ((), [])
        }
        return {
            "format_version": FORMAT_VERSION,
            "bundle": self.bundle,
            "variant": self.variant,
            "column": self.column,
            "translation_column": self.translation_column,
            "score_column": self.score_column,
            "on_error": self.on_error,
            "block_rows": self.block_rows,
            **options,
            **{f"input {file.path.name}": f"{file.rows} rows, {file.fingerprint}" for file in self.files},
        }

    def require_usable(self) -> None:
        """
        Raises:
            InputError: the output folder holds something that is no corpus translation.
        """
        if (self.output / JOB).exists() or not self.output.exists():
            return
        if any(file.name != LOCK and not is_leftover(file) for file in self.output.iterdir()):
            raise InputError(
                f"{self.output} is neither empty nor a corpus translation",
                path=self.output,
                help="choose another --output",
            )

    def claim(self) -> None:
        """Makes the output folder this job's, or checks that it is.

        A job of which no block is finished gives way to another. Blocks finished with `on_error` = "fail" had no bad
        row, so they suit every other policy too.

        Raises:
            RunConflictError: it holds another job.
            CorruptFileError: its record cannot be read.
        """
        path, asked = self.output / JOB, self.settings()
        if path.exists():
            try:
                recorded = dict(json.loads(path.read_bytes()))
            except (ValueError, TypeError) as error:
                raise CorruptFileError(path, f"not JSON ({error})", help="delete the folder and begin again") from error
            names = [*recorded, *(name for name in asked if name not in recorded)]
            differences = {
                name: (recorded.get(name), asked.get(name)) for name in names if recorded.get(name) != asked.get(name)
            }
            if recorded.get("on_error") == "fail":
                differences.pop("on_error", None)
            if differences and any((self.output / BLOCKS).glob("*.json")):
                raise RunConflictError(
                    self.output, differences, help="choose another --output, or repeat the recorded settings to resume"
                )
            if recorded == asked:
                return
            if differences:  # a part whose record was not written any more would stand beside this job's
                for part in self.output.glob("part-*.parquet"):
                    part.unlink()
        write_json(path, asked)


def make_job(files: list[SourceFile], bundle: Bundle, output: Path, **settings: Any) -> CorpusJob:
    """The job of translating `files` with `bundle`; `settings` are the other fields of `CorpusJob`.

    Raises:
        InputError: there is no row, or two files have one name.
        UnknownNameError: the bundle has no such variant.
    """
    names = [file.path.name for file in files]
    if len(set(names)) < len(names):
        raise InputError("two input files have the same name", help="rename one: bad rows are reported by file name")
    if not sum(file.rows for file in files):
        raise InputError(f"{', '.join(names)}: no rows", path=files[0].path if files else None)
    variant = settings.pop("variant", None) or bundle.manifest.default_variant
    bundle.variant(variant)
    defaults = bundle.decode
    options: TranslateOptions = settings.pop("options", TranslateOptions())
    given = {name: getattr(options, name) for name in ("beam_size", "alpha", "extra_length")}
    filled = {name: getattr(defaults, name) if value is None else value for name, value in given.items()}
    return CorpusJob(
        files=tuple(dataclasses.replace(file, path=file.path.absolute()) for file in files),  # for workers elsewhere
        bundle_dir=bundle.directory.absolute(),
        bundle=f"{bundle.manifest.name} {bundle.version}",
        variant=variant,
        output=output.absolute(),
        options=options.with_changes(filled),
        **settings,
    )
