"""Checkpoints: a folder per step, written whole or not at all, checked when read, never pickled.

checkpoints/step-00001000/model.safetensors       parameters and persistent buffers
                          optimizer.safetensors   moments of the update rule, states of the random generators
                          state.json              step, position in the data, best evaluation, checksums
checkpoints/best.json                             the step of the best evaluation
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2tdeploy.errors import CorruptFileError, InputError, OperationalError
from t2tdeploy.files import atomic_directory, atomic_file, recover_all, remove_directory, sha256_of, write_json
from t2tdeploy.settings import Settings
from t2tdeploy.training.engine import EngineState

MODEL, OPTIMIZER, STATE, BEST = "model.safetensors", "optimizer.safetensors", "state.json", "best.json"
AVERAGING_ATTEMPTS = 3


class BestEvaluation(Settings):
    """The best evaluation so far: the step, and the value of the metric that decides."""

    step: int
    metric: str
    value: float


class TrainingState(Settings):
    """What the trainer knows besides tensors.

    Args:
        step: optimizer steps done.
        epoch, batch: the next batch to train on.
        evaluation_due: this step is to be evaluated and has not been, because that failed or was killed.
        best: None before the first evaluation.
        evaluations_without_gain: since `best`, for early stopping.
    """

    step: int
    epoch: int
    batch: int
    evaluation_due: bool = False
    best: BestEvaluation | None = None
    evaluations_without_gain: int = 0


class _StateFile(Settings):
    """state.json: the training state and the checksums of the files beside it.

    Args:
        previous: step of the checkpoint that was the newest before; None if there was none.
    """

    training: TrainingState
    checksums: dict[str, str]
    previous: int | None = None


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: `checkpoints` of the run directory; made on the first save.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = [path.name for path in self.directory.glob("step-*")]
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name)))

    def save(self, engine: EngineState, training: TrainingState) -> Path:
        """Writes one checkpoint, then points best.json at the best evaluation, if there is one.

        Raises:
            OperationalError: the disk is full or fails; the checkpoints there were are as they were.
        """
        path = self.path(training.step)
        previous = max((step for step in self.steps() if step < training.step), default=None)
        with self._writing(path), atomic_directory(path, replace=True) as temporary:
            _write_tensors(temporary / MODEL, engine.model)
            _write_tensors(temporary / OPTIMIZER, engine.optimizer)
            state = _StateFile(training=training, checksums=_checksums(temporary), previous=previous)
            _write_state(temporary / STATE, state)
        if training.best is not None:
            self.mark_best(training.best)
        return path

    def record(self, training: TrainingState) -> None:
        """Rewrites the training state of the checkpoint of its step, whose tensors stay; then points at the best.

        Raises:
            OperationalError: see `save`.
        """
        path = self.path(training.step)
        state = _read_state_file(path).replace(training=training)
        with self._writing(path), atomic_file(path / STATE) as temporary:
            _write_state(temporary, state)
        if training.best is not None:
            self.mark_best(training.best)

    def mark_best(self, best: BestEvaluation | None) -> None:
        """Points best.json at `best`; without one, there is none."""
        if best is None:
            (self.directory / BEST).unlink(missing_ok=True)
        else:
            write_json(self.directory / BEST, best.model_dump())

    def best_step(self) -> int | None:
        """The step of the best evaluation whose checkpoint is still there."""
        file = self.directory / BEST
        if not file.is_file():
            return None
        try:
            step = BestEvaluation.model_validate_json(file.read_text(encoding="utf-8")).step
        except ValidationError as error:
            raise CorruptFileError(file, "not what a training run writes", help="delete it to use the last") from error
        return step if self.path(step).is_dir() else None

    def load(self, step: int) -> tuple[EngineState, TrainingState]:
        """Reads the checkpoint of `step`, checksums included.

        Raises:
            CorruptFileError: a file is damaged; `help` names the newest intact checkpoint before it.
        """
        try:
            training = read_state(self.path(step))
            return EngineState(read_tensors(self.path(step), MODEL), read_tensors(self.path(step), OPTIMIZER)), training
        except CorruptFileError as error:
            raise CorruptFileError(error.path, error.reason, help=self._advice(step)) from error

    def prune(self, keep_last: int) -> None:
        """Removes all but the newest `keep_last` checkpoints and the best one."""
        kept = {*self.steps()[-keep_last:], self.best_step()}
        for step in self.steps():
            if step not in kept:
                remove_directory(self.path(step))

    def average(self, last: int, directory: Path) -> list[int]:
        """Writes the mean of the newest `last` checkpoints to `directory`, see `write_average`; returns their steps.

        They are fewer where the run has no more, and where the oldest is only there because it is the best: `prune` has
        removed what lay between, and it is too old for a mean of the last. The run may be trained meanwhile.

        Raises:
            InputError: there is none, or two are of different models.
            CorruptFileError: one is damaged.
            OperationalError: training removes them faster than they are read.
        """
        for _ in range(AVERAGING_ATTEMPTS):
            steps = self.steps()[-last:]
            try:
                steps = self._in_a_row(steps)
                write_average(directory, [self.path(step) for step in steps])
            except (CorruptFileError, FileNotFoundError):
                if all(self.path(step).is_dir() for step in steps):
                    raise
            else:
                return steps
        raise OperationalError(
            f"training removes the checkpoints in {self.directory} faster than {last} of them are averaged",
            help="wait until it ends, average fewer with --last, or keep more with --keep-last of train",
        )

    def _in_a_row(self, steps: list[int]) -> list[int]:
        """`steps` without the first, if that is the best and checkpoints between it and the next were removed."""
        if len(steps) < 2 or steps[0] != self.best_step():
            return steps
        previous = _read_state_file(self.path(steps[1])).previous
        return steps if previous in (None, steps[0]) else steps[1:]

    def remove_unfinished(self) -> None:
        """Removes what a killed process left half-written, and puts back what it had only moved."""
        for folder in (self.directory, *map(self.path, self.steps())):
            recover_all(folder)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            steps = self.steps()
            resumes = f"the same command then goes on from {self.path(steps[-1]).name}" if steps else "then start again"
            raise OperationalError(
                f"checkpoint {path} cannot be written: {error.strerror or error}",
                help=f"make room there, or keep fewer with --keep-last; {resumes}",
            ) from error

    def _advice(self, damaged: int) -> str:
        for step in reversed([step for step in self.steps() if step < damaged]):
            try:
                verify(self.path(step))
            except CorruptFileError:
                continue
            return f"delete {self.path(damaged)} to go on from {self.path(step).name}, which is intact"
        return "no earlier checkpoint is intact: start again in another --output-dir"


def read_state(checkpoint: Path) -> TrainingState:
    """The training state of a checkpoint folder."""
    return _read_state_file(checkpoint).training


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint folder, on the CPU.

    Raises:
        CorruptFileError: the file is missing, or is not the one that was written.
    """
    _verify_file(checkpoint / name, _read_state_file(checkpoint).checksums.get(name))
    try:
        tensors: dict[str, Tensor] = load_file(checkpoint / name)
    except SafetensorError as error:
        raise CorruptFileError(checkpoint / name, str(error)) from error
    return tensors


def verify(checkpoint: Path) -> None:
    """Compares every file of a checkpoint folder with its checksum.

    Raises:
        CorruptFileError: one differs.
    """
    for name, checksum in _read_state_file(checkpoint).checksums.items():
        _verify_file(checkpoint / name, checksum)


def average_checkpoints(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the parameters of several checkpoints (Vaswani et al. 2017; t2t-avg-all).

    Sums in float64, so that the order does not matter to float32. Integer buffers are taken from the last.

    Raises:
        InputError: there is none, or two are of different models.
    """
    if not checkpoints:
        raise InputError("no checkpoint to average", help="train first")
    total: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        tensors = read_tensors(checkpoint, MODEL)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if total and shapes != {name: tensor.shape for name, tensor in total.items()}:
            raise InputError(f"{checkpoint} is of another model than {checkpoints[0]}", path=checkpoint)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                total[name] = tensor
            elif name in total:
                total[name] += tensor
            else:
                total[name] = tensor.to(torch.float64)
    last = read_tensors(checkpoints[-1], MODEL)
    return {
        name: (tensor / len(checkpoints)).to(last[name].dtype) if tensor.is_floating_point() else tensor
        for name, tensor in total.items()
    }


def write_average(directory: Path, checkpoints: Sequence[Path]) -> None:
    """Writes the mean of `checkpoints` as a checkpoint folder without optimizer; its step is the newest one's."""
    average = average_checkpoints(checkpoints)
    newest = max((read_state(checkpoint) for checkpoint in checkpoints), key=lambda state: state.step)
    with atomic_directory(directory, replace=True) as temporary:
        _write_tensors(temporary / MODEL, average)
        _write_state(temporary / STATE, _StateFile(training=newest, checksums=_checksums(temporary)))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # what the system said is only in its words
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    path.chmod(mode)  # safetensors makes files that only their owner can read


def _write_state(path: Path, state: _StateFile) -> None:
    path.write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _checksums(directory: Path) -> dict[str, str]:
    files: Iterable[Path] = sorted(directory.glob("*.safetensors"))
    return {file.name: sha256_of(file) for file in files}


def _read_state_file(checkpoint: Path) -> _StateFile:
    path = checkpoint / STATE
    if not path.is_file():
        raise CorruptFileError(path, "it is missing")
    try:
        return _StateFile.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CorruptFileError(path, "not what a training run writes") from error


def _verify_file(path: Path, checksum: str | None) -> None:
    if not path.is_file():
        raise CorruptFileError(path, "it is missing")
    if sha256_of(path) != checksum:
        raise CorruptFileError(path, "its SHA-256 is not the recorded one")
