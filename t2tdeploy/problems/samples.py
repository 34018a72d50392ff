"""A problem's samples, checked, and what one pass over a split finds out."""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2tdeploy.errors import InputError, T2TDeployError
from t2tdeploy.features import LABELS, FeatureSpec, Modality
from t2tdeploy.problems.classes import in_class_order, shown_classes
from t2tdeploy.problems.codecs import Codec, codecs_of
from t2tdeploy.problems.problem import Problem, Sample
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter


class SampleHash:
    """SHA-256 over samples in their order."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self._hash, self._codecs = hashlib.sha256(), codecs

    def add(self, sample: Sample) -> None:
        for codec in self._codecs:
            self._hash.update(codec.digest(sample[codec.name]))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True)
class SplitScan:
    """What a pass over a split found.

    Args:
        examples: their number.
        sha256: of what is in them.
        bad_lines: what was left out.
        labels: label feature -> class -> examples that have it.
    """

    examples: int
    sha256: str
    bad_lines: BadLines
    labels: dict[str, Counter[str]]


def prepare(problem: Problem, source_dir: Path, reporter: Reporter) -> None:
    """Lets the problem prepare itself, anew if it was used before.

    Raises:
        InputError: the problem's own code failed (with the place).
    """
    try:
        problem.prepared = problem.prepare(source_dir, reporter)
    except T2TDeployError:
        raise
    except Exception as error:
        raise _own_fault(problem, "prepare", error) from error


def scan(
    problem: Problem, features: Mapping[str, FeatureSpec], split: str, source_dir: Path, reporter: Reporter
) -> SplitScan:
    """Reads a split once.

    Raises:
        InputError: see `checked_samples`.
    """
    codecs = codecs_of(features)
    digest, examples = SampleHash(codecs), 0
    labels: dict[str, Counter[str]] = {name: Counter() for name, spec in features.items() if spec.modality in LABELS}
    with reporter.task(f"reading {split}", None, "examples") as task:
        for sample in checked_samples(problem, codecs, split, source_dir, reporter):
            digest.add(sample)
            examples += 1
            for codec in codecs:
                if codec.name in labels:
                    labels[codec.name].update(codec.labels(sample[codec.name]))
            task.advance()
    return SplitScan(examples, digest.hexdigest(), problem.bad_lines, labels)


def with_classes(
    problem: Problem, features: Mapping[str, FeatureSpec], train: SplitScan, reporter: Reporter
) -> dict[str, FeatureSpec]:
    """`features` with the classes of its labels: where none are declared, those that occur in train, sorted.

    Classes that are declared and do not occur in train are reported.

    Raises:
        InputError: a feature has one class only, so that there is nothing to learn.
    """
    complete = dict(features)
    for name, found in train.labels.items():
        spec = features[name]
        if not spec.classes:
            complete[name] = spec = replace(spec, classes=in_class_order(found))
        if len(found) == 0 or (len(found) == 1 and spec.modality is Modality.CLASS_LABEL):
            classes = f"the same class, '{next(iter(found))}'," if found else "no class at all"
            raise InputError(
                f"all {train.examples} training examples of problem '{problem.name}' have {classes} in '{name}'",
                help="a model learns from examples of at least two classes: look at the column of the labels",
            )
        if missing := tuple(label for label in spec.classes if label not in found):
            reporter.message(
                f"{problem.name}: no training example has these classes of '{name}', so no model can learn them: "
                f"{shown_classes(missing)}"
            )
    return complete


def checked_samples(
    problem: Problem, codecs: Sequence[Codec], split: str, source_dir: Path, reporter: Reporter
) -> Iterator[Sample]:
    """The samples of a split; one with an empty text is left out and added to `problem.bad_lines`, a fresh one.

    Raises:
        InputError: a sample is not what its features say, or the problem's own code failed (with the place).
    """
    problem.bad_lines = BadLines()
    samples = problem.generate_samples(split, source_dir, reporter)
    number = 0
    while True:
        number += 1
        try:
            sample = next(samples)
        except StopIteration:
            return
        except T2TDeployError:
            raise
        except Exception as error:
            raise _own_fault(problem, f"sample {number} of {split}", error) from error
        if fault := _fault(sample, codecs):
            form = ", ".join(f'"{codec.name}": {codec.what}' for codec in codecs)
            raise InputError(
                f"sample {number} of split {split} of problem '{problem.name}' {fault}",
                help=f"generate_samples must yield {{{form}}}",
            )
        if any(codec.blank(sample[codec.name]) for codec in codecs):
            problem.bad_lines.add(f"{problem.name}-{split}", number, "empty")
        else:
            yield sample


def _fault(sample: Any, codecs: Sequence[Codec]) -> str | None:
    """What is wrong with a sample, if anything."""
    if not isinstance(sample, dict) or any(codec.name not in sample for codec in codecs):
        return f"is {sample!r:.200}"
    for codec in codecs:
        if fault := codec.fault(sample[codec.name]):
            return f"is faulty: '{codec.name}' {fault}"
    return None


def _own_fault(problem: Problem, where: str, error: Exception) -> InputError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        f"problem '{problem.name}' failed at {where}: {type(error).__name__}: {error}",
        path=place.filename,
        line=place.lineno,
        help=f"see {place.filename}, line {place.lineno}",
    )
