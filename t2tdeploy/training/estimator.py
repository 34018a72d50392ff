"""Estimator: train, evaluate, predict and export a model from a program, as users of tf.estimator know it.

The loop, engines, checkpoints and curves are those of every run; this puts what input functions give in the place of
a data directory. Where we differ from tf.estimator:

- An input function gives examples, not the order of training: that is shuffled and cut into batches of
  `hparams.batch_size` here, from (seed, epoch), so that a run which goes on from a checkpoint computes what it would
  have computed (of learning rates that end with the last step, if `max_steps` is the same). Do not shuffle, batch or
  repeat. It is read into memory, once per call.
- Columns and classes are fitted on the first call of `train` and kept with the run; the exported graph computes them.
- Optimizer, learning rate and batch size are hyperparameters, not code of the model.
- `export_bundle` takes the place of `export_saved_model`, and needs no serving input function.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from t2tdeploy import registry
from t2tdeploy.bundle import Bundle
from t2tdeploy.columns.declare import Declaration
from t2tdeploy.errors import InputError, UserError
from t2tdeploy.features import FeatureSpec
from t2tdeploy.files import atomic_file
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.models.model_fn import FunctionModel, function_model
from t2tdeploy.problems.in_memory import (
    TARGETS,
    InMemoryData,
    InMemoryDataset,
    LabelKind,
    arrays_of,
    fit_features,
    missing_numbers,
)
from t2tdeploy.problems.input_functions import InputFunction, Table, read_input
from t2tdeploy.progress import LoggingReporter, Reporter
from t2tdeploy.registry import snake_case
from t2tdeploy.training.checkpoints import CheckpointStore
from t2tdeploy.training.estimator_options import EvalSpec, RunConfig, TrainSpec
from t2tdeploy.training.estimator_outputs import Prediction, chosen, outputs, prediction
from t2tdeploy.training.hooks import Hook
from t2tdeploy.training.predictions import evaluate_predictions
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.trainer import TrainResult, train

EXAMPLES = "examples.npz"
SOURCE = "model_source.py"
_KEPT_EXAMPLES = 32


class _Run(RunDirectory):
    """A run whose model is that of the program, and whose problem is its input functions."""

    own: ClassVar[type[Model]]

    @classmethod
    def model_class(cls, name: str) -> type[Model]:
        del name
        return cls.own

    def _require_code(self) -> None:
        """It is there: the program has given it."""


class Estimator:
    """A model with its run directory.

    Args:
        model: a subclass of `Model`, the name of a registered one, or a model function, see `models.model_fn`.
        model_dir: the run directory; where it holds a run of this model, that goes on. None: a new temporary folder.
        hparams: hyperparameters that differ from the model's defaults, the name of a set, or all of them.
        params: what a model function is given.
        columns: what the features are made of, see `columns.declare`; None: every column that the input function
            gives: numbers standardised, texts as values of a vocabulary, bytes of four axes as images.
        labels: what labels are: "classify", "multi_label" (zeros and ones [examples, classes]) or "regress"; "auto":
            floats are quantities, integers, truth values and texts are classes.
        classes: their names, by id, or their number; None: those that occur in the first training examples.
        config: how it runs.
        warm_start_from: run directory, checkpoint or .safetensors file that a new run takes parameters from, those
            that fit by name and shape.
        reporter: is told of progress; None: the logger "t2tdeploy" is, at level INFO.

    Raises:
        UserError: `model` is none, or a hyperparameter is not valid.
        UnknownNameError: there is no model, or no set, of that name.
    """

    def __init__(
        self,
        model: type[Model] | str | Callable[..., Any],
        model_dir: str | PathLike[str] | None = None,
        *,
        hparams: HParams | Mapping[str, Any] | str | None = None,
        params: Mapping[str, Any] | None = None,
        columns: Sequence[Declaration] | None = None,
        labels: LabelKind = "auto",
        classes: Sequence[str] | int | None = None,
        config: RunConfig | None = None,
        warm_start_from: str | PathLike[str] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.model_class, self._code = _model_class(model), model
        self.name = model if isinstance(model, str) else snake_case(self.model_class.__name__)
        self.hparams = _hparams(self.model_class, hparams, params)
        self.columns, self.labels, self.classes = columns, labels, classes
        self.config, self.reporter = config or RunConfig(), reporter or LoggingReporter()
        self.warm_start_from = None if warm_start_from is None else Path(warm_start_from)
        if model_dir is None:
            model_dir = tempfile.mkdtemp(prefix="t2tdeploy-")
            self.reporter.message(f"the run directory is {model_dir}")
        self.model_dir = Path(model_dir)
        self._run_class: type[_Run] = type("_RunOf", (_Run,), {"own": self.model_class})

    def train(
        self,
        input_fn: InputFunction,
        hooks: Sequence[Hook] = (),
        *,
        steps: int | None = None,
        max_steps: int | None = None,
    ) -> Estimator:
        """Trains, from the newest checkpoint if there is one.

        Args:
            input_fn: see `problems.input_functions`.
            steps: how many to do now.
            max_steps: how many there shall be in all: nothing is done if there are; with neither, train_steps of the
                hyperparameters.

        Raises:
            InputError: the input function gives what the model cannot take; the message names column and example.
            RunConflictError: model_dir holds a run of other hyperparameters, columns or classes.
            TrainingError: the loss is not finite, or memory ran out.
            KeyboardInterrupt: a signal ended training; its checkpoint is written.
        """
        self._train(input_fn, hooks, self._total(steps, max_steps), None)
        return self

    def train_and_evaluate(self, train_spec: TrainSpec, eval_spec: EvalSpec) -> dict[str, float]:
        """Trains with evaluations in between, stops early if asked to, and exports the best checkpoint.

        Returns:
            what `evaluate` finds of the best checkpoint.

        Raises:
            see `train`, `evaluate` and `export_bundle`.
        """
        total = self._total(None, train_spec.max_steps)
        self._train(train_spec.input_fn, train_spec.hooks, total, eval_spec)
        found = self.evaluate(eval_spec.input_fn, steps=eval_spec.steps, checkpoint="best")
        if eval_spec.export_to is not None:
            self.export_bundle(
                eval_spec.export_to, calibrate=eval_spec.input_fn, checkpoint="best", metrics=found, overwrite=True
            )
        return found

    def evaluate(
        self, input_fn: InputFunction, *, steps: int | None = None, checkpoint: str | int = "last"
    ) -> dict[str, float]:
        """Loss and scores on the examples of `input_fn`, the model function's own metrics, and "global_step".

        Args:
            steps: batches of the input function that are evaluated; None: all.
            checkpoint: "last", "best" (by evaluation in `train_and_evaluate`) or a step.

        Raises:
            InputError: nothing was trained, or the input function gives what the model cannot take.
        """
        run = self._open()
        model = run.model(checkpoint)
        dataset = self._dataset(read_input(input_fn, steps=steps), run.features)
        data = InMemoryData(run.features, {"eval": dataset})
        report = evaluate_predictions(model, data, "eval", batch_size=run.hparams.batch_size)
        found = report.values
        if isinstance(model, FunctionModel):
            predicted = chosen(report.logits, run.features[TARGETS])
            found |= {name: float(metric(report.labels, predicted)) for name, metric in model.metrics.items()}
        step = run.checkpoint_path(checkpoint).name.removeprefix("step-")
        return {**found, "global_step": int(step)} if step.isdecimal() else found

    def predict(self, input_fn: InputFunction, *, checkpoint: str | int = "last") -> Iterator[Prediction]:
        """A dict of arrays per example, in their order; labels that the input function gives are not looked at.

        Yields:
            of classes "class_ids" and "classes" (their names), [1], or as many as have more than probability 0.5
            where labels are multi_label; "probabilities" and "logits", [classes];
            of numbers "predictions", [*shape], or [1] of a single number;
            and whatever else a model function predicts.

        Raises:
            InputError: see `evaluate`.
        """
        run = self._open()
        model, spec = run.model(checkpoint), run.features[TARGETS]
        table = read_input(input_fn)
        arrays = arrays_of(table, run.features, labels=False, others=self.columns is not None)
        size = run.hparams.batch_size
        for start in range(0, len(table), size):
            batch = {name: values[start : start + size] for name, values in arrays.items()}
            found = outputs(model, batch)
            for row in range(len(next(iter(batch.values())))):
                yield prediction({name: values[row] for name, values in found.items()}, spec)

    def export_bundle(
        self,
        directory: str | PathLike[str],
        *,
        name: str | None = None,
        calibrate: InputFunction | None = None,
        checkpoint: str | int = "last",
        metrics: Mapping[str, float] | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Writes the model as a bundle that takes columns as the input function gives them, for `t2tdeploy.load` and
        the server. The graph is first compared with the model, on examples kept from training.

        Args:
            name: what requests call the model; None: the model's.
            calibrate: examples with labels that were not trained on; probabilities are calibrated on them.
            metrics: recorded in the bundle.

        Raises:
            InputError: nothing was trained, or `directory` is taken.
            ParityError: graph and model disagree; nothing is written.
            OperationalError: the model cannot be expressed in ONNX.
        """
        from t2tdeploy.export.classifier import export_classifier

        run = self._open()
        calibration = []
        if calibrate is not None:
            arrays, size = self._dataset(read_input(calibrate), run.features).arrays, run.hparams.batch_size
            count = len(next(iter(arrays.values())))
            calibration = [
                {name: values[start : start + size] for name, values in arrays.items()}
                for start in range(0, count, size)
            ]
        return export_classifier(
            run.model(checkpoint),
            Path(directory),
            name=name or self.name,
            tokenizers={},
            max_length=run.hparams.max_length,
            examples=_read_examples(run),
            calibration=calibration,
            provenance={**run.record.model_dump(mode="json"), "checkpoint": run.checkpoint_path(checkpoint).name},
            metrics=metrics,
            overwrite=overwrite,
            reporter=self.reporter,
        )

    def latest_checkpoint(self) -> Path | None:
        """The folder of the newest checkpoint; None if there is none."""
        store = CheckpointStore(self.model_dir / "checkpoints")
        steps = store.steps()
        return store.path(steps[-1]) if steps else None

    def _total(self, steps: int | None, max_steps: int | None) -> int:
        for name, value in (("steps", steps), ("max_steps", max_steps)):
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}: it must be at least 1")
        if steps is None:
            return max_steps or self.hparams.train_steps
        if max_steps is not None:
            raise UserError(
                "steps and max_steps are both given", help="steps counts from now, max_steps from the start"
            )
        done = CheckpointStore(self.model_dir / "checkpoints").steps()
        return steps + (done[-1] if done else 0)

    def _train(
        self, input_fn: InputFunction, hooks: Sequence[Hook], total: int, spec: EvalSpec | None
    ) -> TrainResult | None:
        newest = CheckpointStore(self.model_dir / "checkpoints").steps()
        if newest and newest[-1] >= total:
            self.reporter.message(f"{self.model_dir} has {newest[-1]} steps of {total}: nothing to do")
            return None
        table = read_input(input_fn)
        features = self._run_class.open(self.model_dir).features if newest else self._fit(table)
        splits = {"train": self._dataset(table, features)}
        if spec is not None:
            splits["dev"] = self._dataset(read_input(spec.input_fn, steps=spec.steps), features)
        identity = repr((self.columns, self.labels, self.classes))
        data = InMemoryData(features, splits, identity)
        run = self._run_class.create_or_resume(
            self.model_dir,
            data=data,
            data_dir=self.model_dir,
            model=self.name,
            hparams=self.hparams.replace(train_steps=total),
            seed=self.config.seed,
        )
        try:
            _keep_source(run.path, self._code)
            _keep_examples(run.path, splits["train"])
            options = self.config.train_options(spec, self._warm_start())
            result = train(run, data, options, self.reporter, hooks=hooks)
        finally:
            run.release()
        if result.stopped:
            raise KeyboardInterrupt
        return result

    def _fit(self, table: Table) -> dict[str, FeatureSpec]:
        return fit_features(table, columns=self.columns, labels=self.labels, classes=self.classes)

    def _dataset(self, table: Table, features: Mapping[str, FeatureSpec]) -> InMemoryDataset:
        """Examples with labels; what is missing in them is reported."""
        arrays = arrays_of(table, features, labels=True, others=self.columns is not None)
        for name, count in missing_numbers(table, features).items():
            self.reporter.message(f"column '{name}': {count} of {len(table)} numbers are missing and count as the mean")
        return InMemoryDataset(arrays)

    def _open(self) -> RunDirectory:
        if self.latest_checkpoint() is None:
            raise InputError(f"{self.model_dir} holds no trained model", path=self.model_dir, help="call train first")
        return self._run_class.open(self.model_dir)

    def _warm_start(self) -> Path | None:
        path = self.warm_start_from
        if path is not None and (path / "run.json").is_file():
            return self._run_class.open(path).checkpoint_path("best")
        return path


def _model_class(model: Any) -> type[Model]:
    if isinstance(model, str):
        found: type[Model] = registry.models.get(model)
        return found
    if isinstance(model, type) and issubclass(model, Model):
        return model
    if callable(model) and not isinstance(model, type):
        return function_model(model)
    raise UserError(
        f"{model!r:.80} is no model",
        help="give a subclass of t2tdeploy.models.model.Model, the name of a model, or a function (features, labels, "
        "mode, params) -> EstimatorSpec",
    )


def _hparams(
    model: type[Model], hparams: HParams | Mapping[str, Any] | str | None, params: Mapping[str, Any] | None
) -> HParams:
    if isinstance(hparams, HParams):
        chosen = hparams
    else:
        name = hparams if isinstance(hparams, str) else model.default_hparams_set
        chosen = registry.hparams_sets.get(name)() if name else model.hparams_class.create({})
    if not isinstance(chosen, model.hparams_class):
        raise UserError(f"hyperparameters of {type(chosen).__name__} are not made for model {model.__name__}")
    changes = dict(hparams) if isinstance(hparams, Mapping) else {}
    if params is not None:
        if not issubclass(model, FunctionModel):
            raise UserError("params are for model functions", help="give a model's hyperparameters as hparams={…}")
        changes["params"] = dict(params)
    return chosen.replace(**changes) if changes else chosen


def _keep_source(directory: Path, code: Any) -> None:
    """A copy of the file that defines the model, or of the model alone where there is no such file."""
    if isinstance(code, str):
        return
    file = inspect.getsourcefile(code) if inspect.getmodule(code) is not None else None
    try:
        text = Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else inspect.getsource(code)
    except (OSError, TypeError):
        return  # typed into an interpreter that keeps no source
    with atomic_file(directory / SOURCE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _keep_examples(directory: Path, dataset: InMemoryDataset) -> None:
    """Some training examples, spread over all of them, for the parity check of an export."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, _KEPT_EXAMPLES).astype(np.int64))
    arrays: dict[str, Any] = {f"feature_{i}": values for i, values in enumerate(dataset.batch(rows).values())}
    with atomic_file(directory / EXAMPLES) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read_examples(run: RunDirectory) -> dict[str, Any]:
    try:
        with np.load(run.path / EXAMPLES, allow_pickle=False) as file:
            return {name: file[f"feature_{i}"] for i, name in enumerate(run.features)}
    except FileNotFoundError:
        raise InputError(f"{run.path} has no {EXAMPLES} to check an export on", help="train a further step") from None
