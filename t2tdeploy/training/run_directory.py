"""The run directory: one training run, complete enough to be repeated, resumed, evaluated and exported.

run.json          problem, model, hparams, seed, data hash, command, revision and versions
vocabularies/     the vocabulary files, so that a run can be decoded and exported without its data
usr/              a copy of the user's folder (--usr-dir), if there was one
checkpoints/      see checkpoints.py
averaged/         the mean of several checkpoints, if asked for
metrics.jsonl, curve.png, events.out.tfevents.*   see summaries.py
.lock             held by the process that trains
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from pydantic import Field, ValidationError

from t2tdeploy import __version__, registry
from t2tdeploy.errors import CorruptFileError, InputError, RunConflictError, UnknownNameError, UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.files import (
    atomic_directory,
    atomic_file,
    is_leftover,
    lock_file,
    recover_all,
    remove_directory,
    write_json,
)
from t2tdeploy.hparams import HParams
from t2tdeploy.models.modalities import require_label_smoothing
from t2tdeploy.models.model import Model
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.settings import Settings
from t2tdeploy.tokenizer import Tokenizer, load_tokenizer
from t2tdeploy.training.checkpoints import MODEL, CheckpointStore, read_tensors
from t2tdeploy.training.parameters import load_parameters
from t2tdeploy.training.schedules import make_schedule

_RECORD, _VOCABULARIES, _USR, _LOCK, _AVERAGED = "run.json", "vocabularies", "usr", ".lock", "averaged"
_PACKAGES = (
    "torch", "numpy", "safetensors", "sacrebleu", "sentencepiece", "pyarrow", "pydantic", "onnx",
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-training-cpu",
)  # fmt: skip
_MAY_CHANGE = {"train_steps"}  # a run may be prolonged
_NO_CODE = shutil.ignore_patterns("__pycache__", ".*")  # of the user's folder


class RunRecord(Settings):
    """run.json: all that a repetition of the run needs."""

    problem: str
    model: str
    hparams_set: str | None = Field(description="the named set that hparams derive from")
    hparams: dict[str, Any]
    features: dict[str, dict[str, Any]]
    data_dir: str
    data_hash: str
    seed: int = Field(ge=0)
    usr_dir_hash: str | None = Field(None, description="SHA-256 of the Python files of --usr-dir; None without one")
    command: list[str]
    git_revision: str | None = Field(description="None outside a git repository")
    versions: dict[str, str]
    t2tdeploy: str
    created: str = Field(description="ISO 8601, UTC")

    def differences(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """What makes two runs different runs: settings, seed and data, not where and when they ran."""
        assert isinstance(other, RunRecord)
        mine, theirs = self._identity(), other._identity()
        return {
            name: (mine.get(name), theirs.get(name))
            for name in [*mine, *(name for name in theirs if name not in mine)]
            if mine.get(name) != theirs.get(name)
        }

    def _identity(self) -> dict[str, Any]:
        hparams = {name: value for name, value in self.hparams.items() if name not in _MAY_CHANGE}
        return {
            "problem": self.problem,
            "data": self.data_hash,
            "model": self.model,
            "seed": self.seed,
            "usr_dir code": self.usr_dir_hash and self.usr_dir_hash[:12],
            **hparams,
        }


class RunDirectory:
    """A run directory that exists; see `create_or_resume` and `open`."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record
        self.checkpoints = CheckpointStore(path / "checkpoints")
        self.train_steps_before: int | None = None  # if `create_or_resume` has changed them
        self._lock: IO[bytes] | None = None  # open, and so held, as long as this object lives

    @classmethod
    def create_or_resume(
        cls,
        path: Path,
        *,
        data: ProblemData,
        data_dir: Path,
        model: str,
        hparams: HParams,
        hparams_set: str | None = None,
        seed: int = 0,
        usr_dir: Path | None = None,
    ) -> RunDirectory:
        """Makes the run directory, or opens it if it is of the same run; locks it against other processes.

        A run that has no checkpoint yet has nothing to lose: its record is replaced by what is asked now.

        Raises:
            RunConflictError: it is of another run; the error shows the differences. `train_steps` may differ.
            InputError: the folder holds something else.
            UserError: another process trains it.
            UnknownNameError: no such model.
            UserError: the model cannot treat a feature of the data.
            SettingsError: the learning-rate schedule is not valid, or there is too much label smoothing.
        """
        kind = cls.model_class(model)
        kind.require_features(data.features)
        require_label_smoothing(data.features[kind.target], hparams.label_smoothing)
        make_schedule(hparams)  # a fault in it must not leave a run directory behind
        record = _new_record(
            data, data_dir=data_dir, model=model, hparams=hparams, set_name=hparams_set, seed=seed, usr_dir=usr_dir
        )
        _require_ours(path)
        path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        recover_all(path, but={_AVERAGED})  # which another process may be writing, without the lock
        run = cls(path, _read_record(path) if (path / _RECORD).exists() else record)
        run._lock = lock
        run.checkpoints.remove_unfinished()
        if run.checkpoints.steps():
            differences = run.record.differences(record)
            if differences:
                run.release()
                raise RunConflictError(path, differences)
            run._prolong(hparams)
        else:
            run.record = record
            run._write(data, usr_dir)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Opens a run directory to evaluate, decode or export; the user's code comes from its `usr` copy if needed.

        Raises:
            InputError: it is no run directory.
            UnknownNameError: its model or problem is not known here.
            UserError: it is the run of an Estimator, whose program evaluates and exports it.
        """
        if not (path / _RECORD).is_file():
            raise InputError(
                f"{path} is not a run directory: it holds no {_RECORD}",
                path=path,
                help="give the --output-dir of a t2tdeploy train",
            )
        run = cls(path, _read_record(path))
        try:
            run._require_code()
        except UnknownNameError:
            if not (path / _USR).is_dir():
                raise
            registry.import_usr_dir(path / _USR)
            run._require_code()
        return run

    @classmethod
    def model_class(cls, name: str) -> type[Model]:
        """The class of model `name`; a subclass may know one that is not registered.

        Raises:
            UnknownNameError: there is none.
        """
        found: type[Model] = registry.models.get(name)
        return found

    def release(self) -> None:
        """Lets other processes, and this one, train the run."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @cached_property
    def hparams(self) -> HParams:
        """The run's hparams."""
        hparams: HParams = self.model_class(self.record.model).hparams_class.create(self.record.hparams)
        return hparams

    @cached_property
    def features(self) -> dict[str, FeatureSpec]:
        """The features the model was built for."""
        return {name: FeatureSpec.from_json(spec) for name, spec in self.record.features.items()}

    @cached_property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """Feature of text -> tokenizer; features that share a vocabulary share the object."""
        texts = {name: spec for name, spec in self.features.items() if spec.modality is Modality.SYMBOL}
        loaded = {spec.vocabulary: load_tokenizer(self._vocabulary(spec)) for spec in texts.values()}
        return {name: loaded[spec.vocabulary] for name, spec in texts.items()}

    def new_model(self) -> Model:
        """The model with fresh parameters."""
        return self.model_class(self.record.model)(self.hparams, self.features)

    def model(self, checkpoint: str | int = "best") -> Model:
        """The model with the parameters of a checkpoint, in evaluation mode on the CPU.

        Args:
            checkpoint: "best" (by evaluation; the last one if nothing was evaluated), "last", "averaged", or a step.

        Raises:
            InputError: there is no such checkpoint; the message lists those there are.
            CorruptFileError: it is damaged.
        """
        model = self.new_model()
        load_parameters(model, read_tensors(self.checkpoint_path(checkpoint), MODEL))
        return model.eval()

    def checkpoint_path(self, checkpoint: str | int = "best") -> Path:
        """The folder of a checkpoint, named as in `model`."""
        steps = self.checkpoints.steps()
        if checkpoint == "averaged" and (self.path / _AVERAGED).is_dir():
            return self.path / _AVERAGED
        wanted: int | None = None
        if checkpoint == "best":
            wanted = self.checkpoints.best_step()
        elif str(checkpoint).isdecimal():
            wanted = int(checkpoint)
        if wanted is None and checkpoint in ("best", "last") and steps:
            wanted = steps[-1]
        if wanted not in steps:
            listed = ", ".join(map(str, steps)) or "none"
            raise InputError(
                f"{self.path} has no checkpoint '{checkpoint}'; steps with one: {listed}",
                path=self.path,
                help="choose best, last, averaged (after averaging) or one of the steps",
            )
        assert wanted is not None
        return self.checkpoints.path(wanted)

    def require_vocabulary_of(self, data: ProblemData) -> None:
        """Refuses data whose ids mean other tokens or classes than the model's, or whose examples are of other sizes.

        Raises:
            InputError: a feature, or its vocabulary, is not the one the run was trained with.
        """
        help = f"give the data of this run with --data-dir; it was trained from {self.record.data_dir}"
        data.require_features(self.features, self.tokenizers, owner=self.path, help=help)

    def average(self, last: int) -> list[int]:
        """Averages the parameters of the newest `last` checkpoints into `averaged/`; returns their steps, which may be
        fewer: see `CheckpointStore.average`."""
        return self.checkpoints.average(last, self.path / _AVERAGED)

    def _require_code(self) -> None:
        get_problem(self.record.problem)  # first: it tells what to do with the run of an Estimator
        self.model_class(self.record.model)

    def _vocabulary(self, spec: FeatureSpec) -> Path:
        return self.path / _VOCABULARIES / f"{spec.vocabulary}.vocab"

    def _write(self, data: ProblemData, usr_dir: Path | None) -> None:
        """Writes everything but checkpoints; run.json comes last and makes the folder a run directory."""
        (self.path / _VOCABULARIES).mkdir(exist_ok=True)  # also where no feature is text: see _require_ours
        for name, tokenizer in data.tokenizers.items():
            with atomic_file(self._vocabulary(data.features[name])) as file:
                file.write_bytes(tokenizer.to_bytes())
        if usr_dir is not None:
            with atomic_directory(self.path / _USR, replace=True) as copy:
                shutil.copytree(usr_dir, copy, ignore=_NO_CODE, dirs_exist_ok=True)
        elif (self.path / _USR).exists():
            remove_directory(self.path / _USR)  # of an earlier attempt that never came to a checkpoint
        write_json(self.path / _RECORD, self.record.model_dump(mode="json"))

    def _prolong(self, hparams: HParams) -> None:
        if hparams.train_steps != (before := self.record.hparams.get("train_steps")):
            self.train_steps_before = before
            self.record = self.record.replace(hparams={**self.record.hparams, "train_steps": hparams.train_steps})
            write_json(self.path / _RECORD, self.record.model_dump(mode="json"))


def _require_ours(path: Path) -> None:
    """Refuses a folder with anything but a run in it, or the pieces of one whose making was killed."""
    names = {file.name for file in path.iterdir() if not is_leftover(file)} if path.exists() else set()
    unfinished = names <= {_VOCABULARIES, _USR, _LOCK} and (_USR not in names or _VOCABULARIES in names)
    if not unfinished and _RECORD not in names:
        raise InputError(f"{path} is neither empty nor a run directory", path=path, help="choose another")


def _locked(path: Path) -> IO[bytes]:
    lock = lock_file(path / _LOCK)
    if lock is None:
        raise UserError(
            f"{path} is being trained by another process",
            help="wait until it ends, or stop it; or choose another --output-dir",
        )
    return lock


def _code_hash(directory: Path) -> str:
    """SHA-256 of the names and contents of a folder's Python files, of those that a run keeps a copy of."""
    digest = hashlib.sha256()
    for file in sorted(directory.rglob("*.py")):
        inside = file.relative_to(directory)
        if not any(part == "__pycache__" or part.startswith(".") for part in inside.parts):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{inside.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _new_record(
    data: ProblemData,
    *,
    data_dir: Path,
    model: str,
    hparams: HParams,
    set_name: str | None,
    seed: int,
    usr_dir: Path | None,
) -> RunRecord:
    return RunRecord(
        problem=data.name,
        model=model,
        hparams_set=set_name,
        hparams=hparams.model_dump(mode="json"),
        features={name: asdict(spec) for name, spec in data.features.items()},
        data_dir=str(data_dir.resolve()),
        data_hash=data.hash,
        seed=seed,
        usr_dir_hash=None if usr_dir is None else _code_hash(usr_dir),
        command=list(sys.argv),
        git_revision=_git_revision(),
        versions=_installed_versions(),
        t2tdeploy=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _installed_versions() -> dict[str, str]:
    """Of those of the packages that are here: one onnxruntime at most, and none need be."""
    versions = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read_record(path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate_json((path / _RECORD).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CorruptFileError(path / _RECORD, "not what a training run writes") from error


def _git_revision() -> str | None:
    """The commit of the working folder, with `-dirty` behind it if files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
