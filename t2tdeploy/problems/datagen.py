"""Generates the data directory of a problem: vocabulary, shards, statistics, and NAME.json last.

It can be stopped at any moment and started again: whatever is there whole, and was made from the same problem,
options, texts and version, is kept; the rest is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from t2tdeploy import __version__
from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.files import lock_file, write_json
from t2tdeploy.problems import dataset, records, statistics
from t2tdeploy.problems.dataset import ProblemRecord, SplitRecord
from t2tdeploy.problems.problem import Problem
from t2tdeploy.problems.samples import SplitScan, prepare, scan, with_classes
from t2tdeploy.problems.sharding import ShardJob, Workplace, write_shards
from t2tdeploy.problems.vocabularies import (
    train_vocabularies,
    vocabularies_fit,
    vocabulary_hashes,
    vocabulary_paths,
)
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.tokenizer import Tokenizer, load_tokenizer

EXAMPLES_PER_SHARD = 50_000


def generate(
    problem: Problem,
    *,
    data_dir: Path,
    source_dir: Path,
    processes: int = 1,
    num_shards: int | None = None,
    reporter: Reporter | None = None,
    usr_dirs: Sequence[Path] = (),
) -> ProblemRecord:
    """Makes `data_dir` ready for training.

    Args:
        source_dir: where published files lie, or are downloaded to.
        processes: workers that tokenize; more than one needs a registered problem.
        num_shards: files per split; None: one per 50 000 examples.
        usr_dirs: folders that register user problems, imported by each worker.

    Raises:
        InputError: the train split is empty, a source is not as it must be, a folder cannot be written, or another
            process generates the same problem there.
        OperationalError: a download, the vocabulary training or a worker failed.
    """
    for value, name in ((processes, "processes"), (num_shards, "num_shards")):
        if value is not None and value < 1:
            raise InputError(f"{name} = {value}: it must be at least 1")
    reporter = reporter or SilentReporter()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _alone(problem.name, data_dir):
            features, scans = _read(problem, source_dir, reporter)
            work = _Work(problem, features, data_dir, source_dir, scans, reporter)
            return work.run(processes=processes, num_shards=num_shards, usr_dirs=usr_dirs)
    except OSError as error:
        raise InputError(f"cannot write the data of '{problem.name}': {error}", path=data_dir) from error


@contextmanager
def _alone(name: str, data_dir: Path) -> Iterator[None]:
    """Keeps a second run away, which would remove what this one is writing. The lock goes with the process."""
    lock = lock_file(data_dir / f".{name}.lock")
    if lock is None:
        raise InputError(
            f"another datagen is generating '{name}' in {data_dir}",
            path=data_dir,
            help="wait until it is done, or give another --data-dir",
        )
    with lock:
        yield


def _read(
    problem: Problem, source_dir: Path, reporter: Reporter
) -> tuple[dict[str, FeatureSpec], dict[str, SplitScan]]:
    """Reads every split once, train first: it may be what says which classes there are."""
    prepare(problem, source_dir, reporter)
    features = problem.features({})
    train = scan(problem, features, "train", source_dir, reporter)
    if not train.examples:
        raise InputError(
            f"the train split of problem '{problem.name}' has no examples",
            path=source_dir,
            help="look at its source files: every line was empty or broken"
            if train.bad_lines.count
            else f"the files that it reads, in {source_dir} unless named otherwise, hold nothing",
        )
    features = with_classes(problem, features, train, reporter)
    others = {
        split: scan(problem, features, split, source_dir, reporter) for split in problem.splits if split != "train"
    }
    return features, {"train": train, **others}


class _Work:
    """One run of `generate` after the sources have been read."""

    def __init__(
        self,
        problem: Problem,
        features: dict[str, FeatureSpec],
        data_dir: Path,
        source_dir: Path,
        scans: dict[str, SplitScan],
        reporter: Reporter,
    ) -> None:
        self.problem, self.features, self.data_dir, self.source_dir = problem, features, data_dir, source_dir
        self.scans, self.reporter = scans, reporter
        self.identity: dict[str, Any] = {
            "problem": problem.name,
            "options": problem.options.model_dump(mode="json", exclude=set(problem.options.not_of_the_data)),
            "t2tdeploy_version": __version__,
        }
        # What decides the ids of features that are not text; those of text are decided by its vocabulary.
        self.declared = {name: asdict(spec) for name, spec in features.items() if spec.modality is not Modality.SYMBOL}

    def run(self, *, processes: int, num_shards: int | None, usr_dirs: Sequence[Path]) -> ProblemRecord:
        key = _hash({**self.identity, "train": self.scans["train"].sha256})
        if not vocabularies_fit(self.problem, self.data_dir, key):
            train_vocabularies(
                self.problem, data_dir=self.data_dir, source_dir=self.source_dir, key=key, reporter=self.reporter
            )
            self._remove_record()  # not before: a vocabulary that cannot be made leaves what was there
        self.tokenizers = self._load_tokenizers()
        self.features = {
            name: replace(spec, vocab_size=self.tokenizers[name].vocab_size) if name in self.tokenizers else spec
            for name, spec in self.features.items()
        }
        record = self._record(vocabulary_hashes(self.problem, self.data_dir), num_shards)
        jobs = self._jobs(record, processes)
        if not jobs and self._is_done(record):
            self.reporter.message(f"{self.problem.name}: already generated in {self.data_dir}")
            return record
        self._remove_record()
        workplace = Workplace(
            problem=self.problem.name,
            options=self.problem.options.model_dump(),
            prepared=self.problem.prepared,
            features=self.features,
            usr_dirs=usr_dirs,
            source_dir=self.source_dir,
            vocabularies=vocabulary_paths(self.problem, self.data_dir),
        )
        write_shards(self.problem, workplace, jobs, self.reporter)
        self._remove_leftovers(record)
        self._finish(record)
        return record

    def _record(self, tokenizer_hashes: dict[str, str], num_shards: int | None) -> ProblemRecord:
        splits = {}
        for split, found in self.scans.items():
            if found.examples:
                wanted = num_shards or -(-found.examples // EXAMPLES_PER_SHARD)
                splits[split] = SplitRecord(examples=found.examples, shards=min(wanted, found.examples))
        texts = {split: found.sha256 for split, found in self.scans.items()}
        return ProblemRecord(
            **self.identity,
            features={name: json.loads(json.dumps(asdict(spec))) for name, spec in self.features.items()},
            vocabularies={
                feature: path.name for feature, path in vocabulary_paths(self.problem, self.data_dir).items()
            },
            tokenizer_hashes=tokenizer_hashes,
            splits=splits,
            hash=_hash({**self.identity, "tokenizers": tokenizer_hashes, "texts": texts, **self._declaration()}),
        )

    def _declaration(self) -> dict[str, str]:
        """Nothing if all features are text."""
        return {"features": _hash(self.declared)} if self.declared else {}

    def _jobs(self, record: ProblemRecord, processes: int) -> list[list[ShardJob]]:
        """What is missing, dealt out to at most `processes` workers: to each a job per split."""
        workers: list[list[ShardJob]] = [[] for _ in range(processes)]
        turn = count()  # goes on from split to split, since dev and test often are one shard each
        for split, size in record.splits.items():
            metadata = {
                "problem": record.problem,
                "version": record.t2tdeploy_version,
                "options": _hash(record.options),
                "tokenizers": _hash(record.tokenizer_hashes),
                "source": self.scans[split].sha256,
                **self._declaration(),
            }
            paths = records.shard_paths(self.data_dir, record.problem, split, size.shards)
            shares: dict[int, dict[int, Path]] = {}  # worker -> its shards
            for shard, path in enumerate(paths):
                if not records.is_complete(path, metadata):
                    shares.setdefault(next(turn) % processes, {})[shard] = path
            for worker, shards in shares.items():
                job = ShardJob(split, shards, size.shards, size.examples, self.scans[split].sha256, metadata)
                workers[worker].append(job)
        return [jobs for jobs in workers if jobs]

    def _is_done(self, record: ProblemRecord) -> bool:
        try:
            return dataset.read_record(record.problem, self.data_dir) == record
        except (InputError, CorruptFileError):
            return False

    def _remove_record(self) -> None:
        dataset.record_path(self.data_dir, self.problem.name).unlink(missing_ok=True)

    def _remove_leftovers(self, record: ProblemRecord) -> None:
        """Removes shards and memory maps of earlier options or texts, and what a killed run left unfinished."""
        wanted = set()
        for split, size in record.splits.items():
            wanted.update(records.shard_paths(self.data_dir, record.problem, split, size.shards))
            wanted.add(dataset.map_path(self.data_dir, record.problem, split, record.hash))
        for split in self.problem.splits:
            stem = f"{record.problem}-{split}-"
            for pattern in (
                f"{stem}*.parquet",
                f".{stem}*.partial",
                f".arrow/{stem}*.arrow",
                f".arrow/.{stem}*.partial",
            ):
                for path in set(self.data_dir.glob(pattern)) - wanted:
                    path.unlink()

    def _load_tokenizers(self) -> dict[str, Tokenizer]:
        """One object for all features of a vocabulary."""
        paths = vocabulary_paths(self.problem, self.data_dir)
        loaded = {path: load_tokenizer(path) for path in paths.values()}
        return {feature: loaded[path] for feature, path in paths.items()}

    def _finish(self, record: ProblemRecord) -> None:
        """Statistics, which read every shard once more through the memory maps, then the record."""
        data = dataset.ProblemData(self.problem, record, self.data_dir, self.tokenizers)
        bad_lines = {split: found.bad_lines for split, found in self.scans.items()}
        statistics.write_statistics(data, bad_lines, self.data_dir, self.reporter)
        write_json(dataset.record_path(self.data_dir, record.problem), record.model_dump(mode="json"))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
