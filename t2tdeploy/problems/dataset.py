"""The data directory of a problem, as training and evaluation read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pydantic import BaseModel, ConfigDict, ValidationError

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.features import FeatureSpec
from t2tdeploy.problems import records
from t2tdeploy.problems.batching import Lengths, example_lengths
from t2tdeploy.problems.columns import ClassLabelColumn, MultiLabelColumn, SymbolColumn, open_column
from t2tdeploy.problems.problem import Problem, get_problem
from t2tdeploy.tokenizer import Tokenizer, load_tokenizer


class SplitRecord(BaseModel):
    """Size of one split: examples, and the shards they lie in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int
    shards: int


class ProblemRecord(BaseModel):
    """What NAME.json says about a data directory; written last, so that its presence means the data are whole.

    Attributes:
        options: the problem's options.
        features: feature -> `FeatureSpec` as a dict, classes and sizes found in the data included; empty in records of
            earlier versions, which only had text to text.
        vocabularies: feature -> file name; twice the same when the vocabulary is joint.
        tokenizer_hashes: feature -> SHA-256 of its vocabulary.
        splits: only those that have examples.
        hash: SHA-256 of all that determines the examples: problem, options, texts, vocabularies, version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str
    options: dict[str, object]
    features: dict[str, dict[str, Any]] = {}
    vocabularies: dict[str, str]
    tokenizer_hashes: dict[str, str]
    splits: dict[str, SplitRecord]
    hash: str
    t2tdeploy_version: str


class Dataset:
    """One split, memory-mapped.

    Args:
        buffer: an Arrow IPC file with the columns of `records.schema_of(features)`, uncompressed, in the order of
            `index`.

    Attributes:
        lengths: SYMBOL feature -> int32 [examples], tokens with EOS; empty if no feature is text.
    """

    def __init__(self, buffer: pyarrow.Buffer, features: Mapping[str, FeatureSpec]) -> None:
        self._table = pyarrow.ipc.open_file(pyarrow.BufferReader(buffer)).read_all()
        self._columns = {name: open_column(spec, self._table, buffer) for name, spec in features.items()}
        self.lengths: dict[str, Lengths] = {
            name: column.lengths for name, column in self._columns.items() if isinstance(column, SymbolColumn)
        }

    def __len__(self) -> int:
        return len(self._table)

    @property
    def example_lengths(self) -> Lengths:
        """int32 [examples]: what an example counts against `batch_size`, see `batching.example_lengths`."""
        return example_lengths(self.lengths, len(self))

    def batch(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The examples `indices`: feature -> an array as `features.Modality` says.

        Text is padded with 0 to the longest of the batch. No indices give arrays of shape [0, 0], or [0, …].
        """
        return {name: column.batch(indices) for name, column in self._columns.items()}

    def id_counts(self, name: str, size: int) -> npt.NDArray[np.int64]:
        """How often each id of a vocabulary, or each class, occurs in a feature: int64 [size]."""
        column = self._columns[name]
        assert isinstance(column, SymbolColumn | ClassLabelColumn | MultiLabelColumn)
        return column.id_counts(size)

    def texts(self, feature: str, indices: npt.NDArray[np.int64] | None = None) -> list[str]:
        """A feature as text, of all examples or of `indices`, in that order: raw text, or the name of a class."""
        return self._columns[feature].texts(indices)

    def samples(self, feature: str, indices: npt.NDArray[np.int64] | None = None) -> list[Any]:
        """A feature as the problem gave it (labels by name), of all examples or of `indices`, in that order."""
        return self._columns[feature].samples(indices)

    def keys(self, feature: str, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """Bytes that are equal where the feature's values are."""
        return self._columns[feature].keys(indices)


class ProblemData:
    """The data directory of one problem; made by `open_problem`.

    Attributes:
        tokenizers: of the features that are text; the same object when their vocabulary is joint.
        features: the feature declarations models are built from.
        hash: identifies the data, see `ProblemRecord`.
    """

    def __init__(
        self, problem: Problem, record: ProblemRecord, data_dir: Path, tokenizers: dict[str, Tokenizer]
    ) -> None:
        self.problem, self.record, self.tokenizers = problem, record, tokenizers
        self.name, self.hash = problem.name, record.hash
        self.features: dict[str, FeatureSpec] = {
            feature: FeatureSpec.from_json(spec) for feature, spec in record.features.items()
        } or problem.features(tokenizers)
        self._data_dir = data_dir

    def require_features(
        self, features: Mapping[str, FeatureSpec], tokenizers: Mapping[str, Tokenizer], *, owner: Path, help: str
    ) -> None:
        """Refuses to be the data of a model whose ids mean something else, or whose examples are of other sizes.

        Args:
            features, tokenizers: the model's.
            owner: where the model is, for the error.
            help: what to do about it.

        Raises:
            InputError: a feature, or its vocabulary, is not the one the model was trained with.
        """
        for name, spec in features.items():
            if self.features.get(name) != spec:
                what = f"'{name}' in the data directory is not what {owner} was trained with"
                raise InputError(f"{what}: {self._difference(spec)}", help=help)
        for name, tokenizer in tokenizers.items():
            if self.tokenizers[name].hash != tokenizer.hash:
                what = f"the vocabulary of '{name}' in the data directory"
                raise InputError(f"{what} is not the one {owner} was trained with", help=help)

    def _difference(self, spec: FeatureSpec) -> str:
        """The first field of `spec` that the data have otherwise, in words."""
        other = self.features.get(spec.name)
        if other is None:
            return f"there are only {', '.join(self.features)}"
        pairs = ((field, value, asdict(other)[field]) for field, value in asdict(spec).items())
        field, mine, theirs = next(pair for pair in pairs if pair[1] != pair[2])
        if field == "column":  # which may hold thousands of words
            return "its column is declared otherwise, or was fitted on other rows"
        return f"{field} = {theirs!r:.200} instead of {mine!r:.200}"

    def split(self, name: str) -> Dataset:
        """Opens a split; the first time after `datagen` its memory map is written, which takes a moment.

        Raises:
            InputError: the split has no examples, or a shard is missing.
            CorruptFileError: a shard is damaged.
        """
        if name not in self.record.splits:
            raise InputError(
                f"{self.name} has no split '{name}'; valid choices: {', '.join(self.record.splits)}",
                path=self._data_dir,
                help=f"choose another, e.g. --split {next(iter(self.record.splits), 'train')}, or make it with datagen",
            )
        split = self.record.splits[name]
        shards = records.shard_paths(self._data_dir, self.name, name, split.shards)
        path = map_path(self._data_dir, self.name, name, self.hash)
        try:
            buffer = records.memory_map(path, shards, records.schema_of(self.features))
            dataset = Dataset(buffer, self.features)
        except pyarrow.ArrowInvalid as error:
            raise CorruptFileError(path, str(error), help="remove it: it is written anew from the shards") from error
        if len(dataset) != split.examples:
            raise CorruptFileError(
                path, f"it has {len(dataset)} examples instead of {split.examples}", help="run t2tdeploy datagen again"
            )
        return dataset


def record_path(data_dir: Path, name: str) -> Path:
    """DATA_DIR/NAME.json."""
    return data_dir / f"{name}.json"


def map_path(data_dir: Path, name: str, split: str, data_hash: str) -> Path:
    """The memory map of a split: DATA_DIR/.arrow/NAME-SPLIT-HASH.arrow."""
    return data_dir / ".arrow" / f"{name}-{split}-{data_hash[:16]}.arrow"


def read_record(name: str, data_dir: Path) -> ProblemRecord:
    """Reads NAME.json.

    Raises:
        InputError: the problem's data have not been generated here.
        CorruptFileError: the file is no such record.
    """
    path = record_path(data_dir, name)
    help = f"run t2tdeploy datagen --problem {name} --data-dir {data_dir}"
    try:
        return ProblemRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{data_dir} holds no data of problem '{name}'", path=path, help=help) from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise CorruptFileError(path, f"{place}: {fault['msg']}" if place else fault["msg"], help=help) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", path=path) from error


def open_problem(name: str, data_dir: Path) -> ProblemData:
    """Opens the data directory of problem `name`.

    Raises:
        UnknownNameError: there is no such problem.
        InputError: its data have not been generated in `data_dir`, or files are missing.
        CorruptFileError: the record or a vocabulary is damaged.
        UnreadableError: a vocabulary cannot be read.
    """
    problem_class = get_problem(name)
    record = read_record(name, data_dir)
    tokenizers: dict[str, Tokenizer] = {}
    loaded: dict[str, Tokenizer] = {}
    for feature, file in record.vocabularies.items():
        if file not in loaded:
            loaded[file] = load_tokenizer(data_dir / file)
            if loaded[file].hash != record.tokenizer_hashes[feature]:
                raise CorruptFileError(
                    data_dir / file, "it is not the vocabulary of these data", help="run t2tdeploy datagen again"
                )
        tokenizers[feature] = loaded[file]
    problem = problem_class(problem_class.options_class.create(dict(record.options)))
    return ProblemData(problem, record, data_dir, tokenizers)
