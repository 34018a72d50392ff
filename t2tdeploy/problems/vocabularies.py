"""The vocabulary files of a problem: trained on its train split, and kept as long as they still fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from t2tdeploy.errors import InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.files import atomic_file, sha256_of, write_json
from t2tdeploy.problems.codecs import SymbolCodec, codecs_of
from t2tdeploy.problems.problem import Problem, TextOptions
from t2tdeploy.problems.samples import checked_samples
from t2tdeploy.progress import Reporter, Task
from t2tdeploy.tokenizer import train_tokenizer


def vocabulary_paths(problem: Problem, data_dir: Path) -> dict[str, Path]:
    """Feature that is text -> DATA_DIR/NAME.VOCABULARY.vocab; the same file for features that share a vocabulary."""
    features = _text_features(problem)
    return {name: data_dir / f"{problem.name}.{spec.vocabulary}.vocab" for name, spec in features.items()}


def _text_features(problem: Problem) -> dict[str, FeatureSpec]:
    return {name: spec for name, spec in problem.features({}).items() if spec.modality is Modality.SYMBOL}


def vocabulary_hashes(problem: Problem, data_dir: Path) -> dict[str, str]:
    """feature -> SHA-256 of its vocabulary file."""
    return {feature: sha256_of(path) for feature, path in vocabulary_paths(problem, data_dir).items()}


def vocabularies_fit(problem: Problem, data_dir: Path, key: str) -> bool:
    """True if the vocabulary files are there, unchanged, and were trained under the same `key`, or none is needed."""
    if not _text_features(problem):
        return True
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
        InputError: the problem's options do not say how to make a vocabulary.
        InputError, OperationalError: as for `train_tokenizer`.
    """
    paths = vocabulary_paths(problem, data_dir)
    options = problem.options
    if not isinstance(options, TextOptions):
        raise InputError(
            f"problem '{problem.name}' has text, but its options are {type(options).__name__}",
            help="derive them from TextOptions, which has the options of vocabularies",
        )
    for path in dict.fromkeys(paths.values()):
        features = [feature for feature in paths if paths[feature] == path]
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
    codecs = codecs_of(problem.features({}))
    wanted = [codec for codec in codecs if isinstance(codec, SymbolCodec) and codec.name in features]
    for sample in checked_samples(problem, codecs, "train", source_dir, reporter):
        for codec in wanted:
            for text in codec.texts(sample[codec.name]):
                task.advance()
                yield text
