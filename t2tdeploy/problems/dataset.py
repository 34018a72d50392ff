"""The data directory of a problem, as training and evaluation read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
from pydantic import BaseModel, ConfigDict, ValidationError

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.features import FeatureSpec
from t2tdeploy.problems import records
from t2tdeploy.problems.problem import Problem, get_problem
from t2tdeploy.tokenizer import Tokenizer, load_tokenizer

FEATURES = ("inputs", "targets")


class SplitRecord(BaseModel):
    """Size of one split: examples, and the shards they lie in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int
    shards: int


class ProblemRecord(BaseModel):
    """What NAME.json says about a data directory; written last, so that its presence means the data are whole.

    Attributes:
        options: the problem's options.
        vocabularies: feature -> file name; twice the same when the vocabulary is joint.
        tokenizer_hashes: feature -> SHA-256 of its vocabulary.
        splits: only those that have examples.
        hash: SHA-256 of all that determines the examples: problem, options, texts, vocabularies, version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str
    options: dict[str, object]
    vocabularies: dict[str, str]
    tokenizer_hashes: dict[str, str]
    splits: dict[str, SplitRecord]
    hash: str
    t2tdeploy_version: str


class Dataset:
    """One split, memory-mapped.

    Args:
        buffer: an Arrow IPC file with the columns of `records.SCHEMA`, uncompressed, in the order of `index`.

    Attributes:
        lengths: feature -> int32 [examples], tokens with EOS.
    """

    def __init__(self, buffer: pyarrow.Buffer) -> None:
        self._table = pyarrow.ipc.open_file(pyarrow.BufferReader(buffer)).read_all()
        # All ids of the file are elements of this one array: example i starts at _starts[feature][i].
        self._ids = np.frombuffer(buffer, dtype=np.int32, count=buffer.size // 4)
        self._starts: dict[str, npt.NDArray[np.int64]] = {}
        self.lengths: dict[str, npt.NDArray[np.int32]] = {}
        for name in FEATURES:
            starts, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
            for chunk in self._table[name].chunks:
                offsets = chunk.offsets.to_numpy()
                values = chunk.values.buffers()[1]
                first = (values.address - buffer.address) // 4 if values is not None else 0
                starts.append(offsets[:-1].astype(np.int64) + first + chunk.values.offset)
                lengths.append(np.diff(offsets))
            self._starts[name], self.lengths[name] = np.concatenate(starts), np.concatenate(lengths)

    def __len__(self) -> int:
        return len(self._table)

    def batch(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """The examples `indices`: feature -> int64 [batch, longest of the batch], padded with 0.

        No indices give arrays of shape [0, 0].
        """
        return {name: self._padded(name, indices) for name in FEATURES}

    def _padded(self, name: str, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        lengths, starts = self.lengths[name][indices], self._starts[name][indices]
        columns = np.arange(lengths.max(initial=0))  # [longest]
        filled = columns < lengths[:, None]  # [batch, longest]
        padded = np.zeros(filled.shape, np.int64)
        padded[filled] = self._ids[(starts[:, None] + columns)[filled]]
        return padded

    def id_counts(self, name: str, vocab_size: int) -> npt.NDArray[np.int64]:
        """How often each id occurs in a feature: int64 [vocab_size]."""
        counts = np.zeros(vocab_size, np.int64)
        for chunk in self._table[name].chunks:
            counts += np.bincount(chunk.values.to_numpy(), minlength=vocab_size)
        return counts

    def texts(self, feature: str, indices: npt.NDArray[np.int64] | None = None) -> list[str]:
        """The raw text of a feature, of all examples or of `indices`, in that order."""
        column = self._table[f"{feature}_text"]
        texts: list[str] = (column if indices is None else column.take(pyarrow.array(indices))).to_pylist()
        return texts


class ProblemData:
    """The data directory of one problem; made by `open_problem`.

    Attributes:
        tokenizers: "inputs" and "targets"; the same object when the vocabulary is joint.
        features: the feature declarations models are built from.
        hash: identifies the data, see `ProblemRecord`.
    """

    def __init__(
        self, problem: Problem, record: ProblemRecord, data_dir: Path, tokenizers: dict[str, Tokenizer]
    ) -> None:
        self.problem, self.record, self.tokenizers = problem, record, tokenizers
        self.name, self.hash = problem.name, record.hash
        self.features: dict[str, FeatureSpec] = problem.features(tokenizers)
        self._data_dir = data_dir

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
            )
        split = self.record.splits[name]
        shards = records.shard_paths(self._data_dir, self.name, name, split.shards)
        path = map_path(self._data_dir, self.name, name, self.hash)
        try:
            dataset = Dataset(records.memory_map(path, shards))
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
