"""Estimator: train, evaluate, predict and export a model from a program, as users of tf.estimator know it.

The loop, engines, checkpoints and curves are those of every run; this puts what input functions give in the place of
a data directory. Where we differ from tf.estimator:

- An input function gives examples, not the order of training: that is shuffled and cut into batches of
  `hparams.batch_size` here, from (seed, epoch), so that a run which goes on from a checkpoint computes what it would
  have computed (of learning rates that end with the last step, if `max_steps` is the same). Do not shuffle, batch or
  repeat. It is read into memory, once per call.
- Columns and classes are fitted on the first call of `train` and kept with the run; the exported graph computes them.
- Optimizer, learning rate and batch size are hyperparameters, not code of the model.
- `export_bundle` takes the place of `export_saved_model`, and needs no serving input function; `optimize_bundle` that
  of TFLite's quantization after training, and refuses what loses too much.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from t2tdeploy.bundle import Bundle, load_bundle
from t2tdeploy.columns.declare import Declaration
from t2tdeploy.errors import InputError, UserError
from t2tdeploy.export.class_agreement import ClassifierGate, ClassifierMeasured
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.models.model_fn import FunctionModel
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
from t2tdeploy.training.checkpoints import CheckpointStore, read_state
from t2tdeploy.training.estimator_bundle import keep_examples, read_examples, require_own, require_own_run
from t2tdeploy.training.estimator_model import hyperparameters, keep_source, model_class
from t2tdeploy.training.estimator_options import EvalSpec, RunConfig, TrainSpec
from t2tdeploy.training.estimator_outputs import Prediction, chosen, outputs, prediction
from t2tdeploy.training.hooks import Hook
from t2tdeploy.training.predictions import evaluate_predictions
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.trainer import TrainResult, train


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
        self.model_class, self._code = model_class(model), model
        self.name = model if isinstance(model, str) else snake_case(self.model_class.__name__)
        self.hparams = hyperparameters(self.model_class, hparams, params)
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
            RunConflictError: model_dir holds a run of another model, or other hyperparameters, columns or classes.
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
                eval_spec.export_to,
                calibrate=eval_spec.input_fn,
                calibrate_steps=eval_spec.steps,
                checkpoint="best",
                metrics=found,
                overwrite=True,
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
            TrainingError: the loss, or a prediction, is not finite.
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
        calibrate_steps: int | None = None,
        checkpoint: str | int = "last",
        metrics: Mapping[str, float] | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Writes the model as a bundle that takes columns as the input function gives them, for `t2tdeploy.load` and
        the server. The graph is first compared with the model, on examples kept from training.

        Args:
            name: what requests call the model; None: the model's.
            calibrate: examples with labels that were not trained on; probabilities are calibrated on them.
            calibrate_steps: batches of it that are taken; None: all.
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
            kept = self._dataset(read_input(calibrate, steps=calibrate_steps), run.features)
            calibration = kept.batches(run.hparams.batch_size)
        return export_classifier(
            run.model(checkpoint),
            Path(directory),
            name=name or self.name,
            tokenizers={},
            max_length=run.hparams.max_length,
            examples=read_examples(run),
            calibration=calibration,
            provenance={**run.record.model_dump(mode="json"), "checkpoint": run.checkpoint_path(checkpoint).name},
            metrics=metrics,
            overwrite=overwrite,
            reporter=self.reporter,
        )

    def optimize_bundle(
        self,
        directory: str | PathLike[str],
        *,
        calibrate: InputFunction,
        compare_on: InputFunction,
        variants: Sequence[str] = ("cpu-int8",),
        default: str | None = None,
        gate: ClassifierGate | None = None,
        force: bool = False,
    ) -> dict[str, ClassifierMeasured]:
        """Adds variants to a bundle that `export_bundle` wrote, as `t2tdeploy optimize` does: smaller and faster
        graphs, compared with its float32 graph. The bundle is replaced as a whole or stays as it is.

        Args:
            calibrate: examples like those that the bundle will be asked about, such as those of training; up to 512 of
                them, spread over all, show how large activations become. Their labels are not looked at.
            compare_on: other examples, with labels; up to 2000 of them, likewise.
            variants: their names.
            default: which variant is run where none is named; None: the same as before.
            gate: what a variant may lose; None: 0.005 of accuracy (half a point), or, of a model that regresses, 2 % of
                the root of the mean squared error.
            force: write variants that lose more too; the manifest says so.

        Returns:
            variant -> what was measured, as the manifest has it: accuracy (a share) or rmse, and size in bytes, of the
            variant and of float32 (reference_…); examples per second of both.

        Raises:
            InputError: nothing was trained, there is no bundle, or one of other columns or classes, a variant is not
                made of such models, or an input function gives what the model cannot take.
            CorruptFileError: the bundle is damaged.
            UserError: no variant is named, or one that nobody knows, or a default that the bundle will not have.
            QualityError: a variant loses more than the gate allows; the reporter was told what was measured.
        """
        from t2tdeploy.export import optimize_classifier as classifiers
        from t2tdeploy.export.optimize import check_request, write_variants

        run, bundle = self._open(), load_bundle(Path(directory))
        names = [variants] if isinstance(variants, str) else list(dict.fromkeys(variants))
        if not names:
            raise UserError("variants = (): there is nothing to make", help='name one: variants=["cpu-int8"]')
        check_request(bundle, bundle.directory, names, default=default, overwrite=True)
        require_own(bundle, run.features)
        known = self._dataset(read_input(calibrate), run.features, labels=False)
        dev = self._dataset(read_input(compare_on), run.features)
        made = classifiers.make_classifier_variants(
            bundle,
            names,
            calibration=classifiers.calibration_examples(known, "the input function calibrate"),
            dev=classifiers.compared_examples(dev, "the input function compare_on"),
            gate=gate or ClassifierGate(),
            reporter=self.reporter,
        )
        found = {name: one.recorded for name, one in made.items()}
        for name, one in found.items():
            self.reporter.event("measured", variant=name, **asdict(one))
        write_variants(bundle, bundle.directory, made, default=default, force=force, overwrite=True)
        return {name: one for name, one in found.items() if isinstance(one, ClassifierMeasured)}

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
        store = CheckpointStore(self.model_dir / "checkpoints")
        newest = store.steps()
        kept = self._open() if newest else None
        is_done = bool(newest) and newest[-1] >= total
        if is_done and not (spec and read_state(store.path(newest[-1])).evaluation_due):
            self.reporter.message(f"{self.model_dir} has {newest[-1]} steps of {total}: nothing to do")
            return None
        table = read_input(input_fn)
        features = kept.features if kept else self._fit(table)
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
            keep_source(run.path, self._code)
            keep_examples(run.path, splits["train"])
            options = self.config.train_options(spec, self._warm_start())
            result = train(run, data, options, self.reporter, hooks=hooks)
        finally:
            run.release()
        if result.stopped:
            raise KeyboardInterrupt
        return result

    def _fit(self, table: Table) -> dict[str, FeatureSpec]:
        return fit_features(table, columns=self.columns, labels=self.labels, classes=self.classes)

    def _dataset(self, table: Table, features: Mapping[str, FeatureSpec], *, labels: bool = True) -> InMemoryDataset:
        """Examples, with labels or without; what is missing in them is reported."""
        arrays = arrays_of(table, features, labels=labels, others=self.columns is not None)
        for name, count in missing_numbers(table, features).items():
            self.reporter.message(f"column '{name}': {count} of {len(table)} numbers are missing and count as the mean")
        return InMemoryDataset(arrays)

    def _open(self) -> RunDirectory:
        if self.latest_checkpoint() is None:
            raise InputError(f"{self.model_dir} holds no trained model", path=self.model_dir, help="call train first")
        run = self._run_class.open(self.model_dir)
        require_own_run(run, self.name)
        return run

    def _warm_start(self) -> Path | None:
        path = self.warm_start_from
        if path is not None and (path / "run.json").is_file():
            return self._run_class.open(path).checkpoint_path("best")
        return path
