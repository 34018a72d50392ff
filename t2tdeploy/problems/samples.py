"""A problem's samples, checked, and what one pass over a split finds out."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2tdeploy.errors import InputError, T2TDeployError
from t2tdeploy.problems.problem import Problem
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter

_SIDES = ("inputs", "targets")


class SampleHash:
    """SHA-256 over samples in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, sample: dict[str, str]) -> None:
        for side in _SIDES:
            self._hash.update(sample[side].encode() + b"\n")

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True)
class SplitScan:
    """What a pass over a split found: number of examples, SHA-256 of their texts, what was left out."""

    examples: int
    sha256: str
    bad_lines: BadLines


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


def scan(problem: Problem, split: str, source_dir: Path, reporter: Reporter) -> SplitScan:
    """Reads a split once.

    Raises:
        InputError: see `checked_samples`.
    """
    digest, examples = SampleHash(), 0
    with reporter.task(f"reading {split}", None, "examples") as task:
        for sample in checked_samples(problem, split, source_dir, reporter):
            digest.add(sample)
            examples += 1
            task.advance()
    return SplitScan(examples, digest.hexdigest(), problem.bad_lines)


def checked_samples(problem: Problem, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
    """The samples of a split; one with an empty side is left out and added to `problem.bad_lines`, a fresh one.

    Raises:
        InputError: a sample is not {"inputs": text, "targets": text}, or the problem's own code failed (with the
            place).
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
        _check(sample, problem, split, number)
        if all(sample[side] for side in _SIDES):
            yield sample
        else:
            problem.bad_lines.add(f"{problem.name}-{split}", number, "empty")


def _own_fault(problem: Problem, where: str, error: Exception) -> InputError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        f"problem '{problem.name}' failed at {where}: {type(error).__name__}: {error}",
        path=place.filename,
        line=place.lineno,
        help=f"see {place.filename}, line {place.lineno}",
    )


def _check(sample: Any, problem: Problem, split: str, number: int) -> None:
    fault = None
    if not isinstance(sample, dict) or not all(isinstance(sample.get(side), str) for side in _SIDES):
        fault = f"is {sample!r:.200}"
    elif not all(_encodable(sample[side]) for side in _SIDES):
        fault = "has characters that UTF-8 cannot encode (lone surrogates)"
    if fault:
        raise InputError(
            f"sample {number} of split {split} of problem '{problem.name}' {fault}",
            help='generate_samples must yield {"inputs": text, "targets": text}',
        )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
