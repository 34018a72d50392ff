"""The vocabulary files of a problem: trained on its train split, and kept as long as they still fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from t2tdeploy.files import atomic_file, sha256_of, write_json
from t2tdeploy.problems.dataset import FEATURES
from t2tdeploy.problems.problem import Problem
from t2tdeploy.problems.samples import checked_samples
from t2tdeploy.progress import Reporter, Task
from t2tdeploy.tokenizer import train_tokenizer


def vocabulary_paths(problem: Problem, data_dir: Path) -> dict[str, Path]:
    """feature -> DATA_DIR/NAME.FEATURE.vocab, or NAME.shared.vocab for both when the vocabulary is joint."""
    joint = problem.options.joint_vocabulary
    return {feature: data_dir / f"{problem.name}.{'shared' if joint else feature}.vocab" for feature in FEATURES}


def vocabulary_hashes(problem: Problem, data_dir: Path) -> dict[str, str]:
    """feature -> SHA-256 of its vocabulary file."""
    return {feature: sha256_of(path) for feature, path in vocabulary_paths(problem, data_dir).items()}


def vocabularies_fit(problem: Problem, data_dir: Path, key: str) -> bool:
    """True if the vocabulary files are there, unchanged, and were trained under the same `key`."""
    try:
        noted = json.loads(_note_path(problem, data_dir).read_text(encoding="utf-8"))
        return bool(noted == {"key": key, "sha256": vocabulary_hashes(problem, data_dir)})
    except (OSError, ValueError):
        return False


def train_vocabularies(problem: Problem, *, data_dir: Path, source_dir: Path, key: str, reporter: Reporter) -> None:
    """Trains the vocabularies on the train split and writes them.

    Args:
        key: identifies options and train split; noted beside the files for `vocabularies_fit`.

    Raises:
        InputError, OperationalError: as for `train_tokenizer`.
    """
    paths = vocabulary_paths(problem, data_dir)
    options = problem.options
    for path in dict.fromkeys(paths.values()):
        features = [feature for feature in FEATURES if paths[feature] == path]
        with reporter.task(f"training vocabulary {path.name}", None, "sentences") as task:
            tokenizer = train_tokenizer(
                _texts(problem, source_dir, features, reporter, task),
                kind=options.vocab_kind,
                vocab_size=options.vocab_size,
                sample_size=options.vocabulary_sample,
                character_coverage=options.character_coverage,
                normalization=options.normalization,
                byte_fallback=options.byte_fallback,
            )
        with atomic_file(path) as temporary:
            temporary.write_bytes(tokenizer.to_bytes())
    write_json(_note_path(problem, data_dir), {"key": key, "sha256": vocabulary_hashes(problem, data_dir)})


def _note_path(problem: Problem, data_dir: Path) -> Path:
    return data_dir / f".{problem.name}.vocabulary.json"


def _texts(problem: Problem, source_dir: Path, features: list[str], reporter: Reporter, task: Task) -> Iterator[str]:
    for sample in checked_samples(problem, "train", source_dir, reporter):
        for feature in features:
            task.advance()
            yield sample[feature]
