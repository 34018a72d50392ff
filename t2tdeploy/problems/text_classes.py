"""The user's own texts with labels, by path: TSV, CSV, JSON lines or Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from t2tdeploy.errors import InputError, nearest
from t2tdeploy.problems.classes import in_class_order, shown_classes
from t2tdeploy.problems.held_out import splits_to_hold_out
from t2tdeploy.problems.held_out_texts import HeldOut, choose_held_out, in_order, text_key, train_without
from t2tdeploy.problems.pairs import existing_file
from t2tdeploy.problems.problem import Sample, TextOptions, TextToClass
from t2tdeploy.problems.row_files import Column, RowFormat, format_of, read_rows
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem

_MANY_CLASSES = 100


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1)]
Columns = Annotated[tuple[Name, ...], BeforeValidator(_as_names), Field(min_length=1, max_length=4)]
Classes = Annotated[tuple[Name, ...], BeforeValidator(_as_names), Field(min_length=2)]


class TextClassOptions(TextOptions):
    """Where the texts and labels are. Relative paths are looked up in `--source-dir`."""

    train: Name | None = Field(None, description="a file of texts and labels; .gz, .zst")
    dev: Name | None = Field(None, description="like train; none: held out of train")
    test: Name | None = Field(None, description="like train; none: held out of train")
    format: Literal["auto", "tsv", "csv", "jsonl", "parquet"] = Field("auto", description="auto: by the file's suffix")
    separator: str | None = Field(None, min_length=1, max_length=1, description="of the values of CSV or TSV, e.g. ;")
    inputs_column: Columns | None = Field(
        None, description="name of the column of texts, or its number from 0 without a header; [a,b] for pairs of texts"
    )
    targets_column: Name | None = Field(None, description="the same for the column of labels")
    classes: Classes | None = Field(
        None, description="names of the classes, by id; labels may be names or ids. none: the labels of train"
    )
    held_out_dev: int | None = Field(
        1000, ge=1, description="texts held out of train where dev is not given, at most a tenth; none: no dev"
    )
    held_out_test: int | None = Field(
        1000, ge=1, description="texts held out of train where test is not given, at most a tenth; none: no test"
    )


@dataclass(frozen=True)
class _Found:
    """What `prepare` finds: the classes by id, and what is held out of train."""

    classes: tuple[str, ...]
    held_out: HeldOut


@register_problem
class TextClassPairs(TextToClass):
    """Your own texts, or pairs of texts, with labels, from TSV, CSV, JSON lines or Parquet.

    Where dev or test is not given, the distinct texts with the smallest hashes are held out of train, but no class's
    last one: the same ones whatever the order of the lines. Further copies of a held-out text, whatever their label,
    are left out of train and counted.
    """

    options_class = TextClassOptions
    options: TextClassOptions
    prepared: _Found | None

    def __init__(self, options: TextClassOptions) -> None:
        super().__init__(options)
        self.paths = {"train": options.train, "dev": options.dev, "test": options.test}
        self.parts = len(options.inputs_column or ("text",))

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known when train has been read
        return self.prepared.classes if self.prepared else ()

    def prepare(self, source_dir: Path, reporter: Reporter) -> _Found:
        """Finds the classes and chooses what is held out, in one pass over train."""
        options = self.options
        if options.train is None:
            raise InputError(
                f"problem '{self.name}' needs its data: train is not set",
                help="set train=reviews.tsv; docs/classify-your-text.md shows the forms that files may have",
            )
        wanted = splits_to_hold_out(self.paths, {"dev": options.held_out_dev, "test": options.held_out_test})
        labels = _Labels(options.classes)
        samples = self._read("train", source_dir, BadLines(), labels)  # train reports the faults of its file
        held_out, count = choose_held_out(labels.seen(samples), _key, wanted)
        path = self._path("train", source_dir)
        labels.check(path, count)
        for split, found in held_out.items():
            for key in labels.last_of_class.values() & found.keys():
                del found[key]
            reporter.message(f"{self.name}: {len(found)} of {count} texts are held out of train for {split}")
        classes = options.classes or in_class_order(labels.counts)
        reporter.message(f"{self.name}: classes of {path}: {_with_counts(classes, labels.counts)}")
        if count > len(classes) and (name := labels.of_first_line()) is not None:
            reporter.message(
                f"{self.name}: class '{name}' has one text, the first line: name the columns if that is a header"
            )
        return _Found(classes, held_out)

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        if self.prepared is None:
            self.prepared = self.prepare(source_dir, reporter)
        labels = _Labels(self.classes)
        if split != "train" and self.paths[split] is not None:
            yield from self._read(split, source_dir, self.bad_lines, labels)
        elif split == "train":
            samples = self._read("train", source_dir, self.bad_lines, labels)
            yield from train_without(samples, _key, self.prepared.held_out, self.bad_lines, what="text")
        else:
            yield from in_order(self.prepared.held_out.get(split, {}))

    def _path(self, split: str, source_dir: Path) -> Path:
        return existing_file(source_dir / Path(self.paths[split] or "").expanduser(), split)

    def _read(self, split: str, source_dir: Path, bad_lines: BadLines, labels: _Labels) -> Iterator[Sample]:
        path = self._path(split, source_dir)
        file_format: RowFormat = format_of(path) if self.options.format == "auto" else self.options.format
        given = (*(self.options.inputs_column or ()), *filter(None, [self.options.targets_column]))
        numbered = all(name.isdecimal() for name in given) if given else file_format == "tsv"
        text, label = ("0", "1") if numbered else ("text", "label")
        texts, label = self.options.inputs_column or (text,), self.options.targets_column or label
        columns = [*(Column(name) for name in texts), Column(label, is_label=True)]
        for row in read_rows(path, file_format, columns, bad_lines, separator=self.options.separator):
            name = labels.name(row.texts[-1], path, row.number, label)
            yield {"inputs": row.texts[0] if self.parts == 1 else row.texts[:-1], "targets": name}


@dataclass
class _Labels:
    """The labels of a file, as names of classes.

    Args:
        classes: by id; None: whatever there is.

    Attributes:
        counts: what `seen` has seen: class -> its texts.
        last_of_class: class -> the largest key of its texts.
    """

    classes: tuple[str, ...] | None
    counts: Counter[str] = field(default_factory=Counter)
    last_of_class: dict[str, int] = field(default_factory=dict)
    _first: str | None = None

    def name(self, label: str, path: Path, number: int, column: str) -> str:
        """The class that a label of a file means.

        Raises:
            InputError: there is no such class (with the line).
        """
        classes = self.classes
        if classes is None or label in classes:
            if number == 1 and column.isdecimal():  # a file without a header
                self._first = label
            return label
        if label.isdecimal() and int(label) < len(classes) and not any(name.isdecimal() for name in classes):
            return classes[int(label)]
        close = nearest(label, classes)
        hint = f"did you mean '{close}'? " if close else ""
        raise InputError(
            f"line {number} of {path}: '{label:.100}' in column '{column}' is none of the {len(classes)} classes",
            path=path,
            line=number,
            help=f"{hint}the classes are {shown_classes(classes)}; their ids, 0 to {len(classes) - 1}, will do if no "
            "class is named by a number",
        )

    def seen(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples themselves, whose labels are counted on the way."""
        for sample in samples:
            name, key = sample["targets"], _key(sample)
            self.counts[name] += 1
            self.last_of_class[name] = max(key, self.last_of_class.get(name, key))
            yield sample

    def check(self, path: Path, examples: int) -> None:
        """Refuses labels that cannot be learned, or hardly are labels.

        Raises:
            InputError: a class of the options has no text, or nearly every text has a label of its own.
        """
        if missing := tuple(name for name in self.classes or () if examples and name not in self.counts):
            found = shown_classes(in_class_order(self.counts))
            raise InputError(
                f"no line of {path} has these classes: {shown_classes(missing)}",
                path=path,
                help=f"leave them out of classes; the file has {found}",
            )
        if self.classes is None and len(self.counts) > max(_MANY_CLASSES, examples // 2):
            example = min(self.counts)
            raise InputError(
                f"{path} has {len(self.counts)} different labels in {examples} lines, such as '{example:.60}'",
                path=path,
                help="these look like texts: set targets_column to the column of the labels, inputs_column to that of "
                "the texts",
            )

    def of_first_line(self) -> str | None:
        """The class of the first line if no other line has it."""
        return self._first if self._first is not None and self.counts[self._first] == 1 else None


def _key(sample: Sample) -> int:
    inputs = sample["inputs"]
    return text_key(inputs if isinstance(inputs, str) else "\t".join(inputs))


def _with_counts(classes: tuple[str, ...], counts: Counter[str]) -> str:
    return shown_classes(tuple(f"{name} ({counts[name]})" for name in classes))
