"""The training loop: steps, log lines, evaluations, checkpoints, and every way to stop.

With several processes each runs this loop, and they share the evaluations. The first one alone writes and reports,
while the others wait at the beginning of the next step; there all of them also agree whether to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2tdeploy.errors import TrainingError
from t2tdeploy.files import atomic_file
from t2tdeploy.problems.batching import Position
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.progress import Reporter, SilentReporter, Task
from t2tdeploy.training.checkpoints import BestEvaluation, TrainingState
from t2tdeploy.training.engine import Batch, Engine, EngineState, NotFiniteError, StepMetrics
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import derived_seed
from t2tdeploy.training.hooks import Hook
from t2tdeploy.training.meter import Meter
from t2tdeploy.training.options import LOWER_IS_BETTER, TrainOptions
from t2tdeploy.training.parameters import load_parameters, named_tensors, tensors_from
from t2tdeploy.training.processes import ALONE, Processes
from t2tdeploy.training.quality import dev_quality
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.schedules import make_schedule, schedule_change
from t2tdeploy.training.shared_stream import SharedStream
from t2tdeploy.training.stop_request import StopRequest
from t2tdeploy.training.summaries import Summaries
from t2tdeploy.training.warm_start import read_parameters, warm_start

INITIALIZE_BATCH = 256  # examples
_AGAINST_DIVERGENCE = "lower learning_rate_constant, warm up for longer, or set clip_grad_norm=1; then start a new run"


class Ending(StrEnum):
    """Why training ended."""

    FINISHED = "finished"
    EARLY_STOPPING = "early stopping"
    HOOK = "stopped by a hook"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class TrainResult:
    """Where training ended.

    Args:
        step: optimizer steps done in all.
        best: the best evaluation; None if there was none.
        checkpoint: the newest checkpoint.
    """

    step: int
    ending: Ending
    best: BestEvaluation | None
    checkpoint: Path

    @property
    def stopped(self) -> bool:
        """True if a signal ended training before its time."""
        return self.ending is Ending.INTERRUPTED


def train(
    run: RunDirectory,
    data: ProblemData,
    options: TrainOptions,
    reporter: Reporter | None = None,
    *,
    processes: Processes = ALONE,
    hooks: Sequence[Hook] = (),
) -> TrainResult:
    """Trains `run` up to its hparams' train_steps, from its newest checkpoint if there is one.

    A run that is killed and started again computes what it would have computed: parameters, moments, dropout masks
    and data order continue bit for bit from the checkpoint (on the same machine, torch and number of threads and
    processes).

    Args:
        processes: that train together, each with its own call of this function. Only in the first one need `run` be
            locked, or its folder be there.
        hooks: told of every step.

    Raises:
        TrainingError: memory ran out; the loss of a step is not finite, and the message names the saved batch; or
            that of an evaluation is not.
        CorruptFileError: the newest checkpoint is damaged.
        InputError: nothing to train on, or a warm start that does not fit.
    """
    return _Trainer(run, data, options, reporter or SilentReporter(), processes, hooks).train()


class _Trainer:
    def __init__(
        self,
        run: RunDirectory,
        data: ProblemData,
        options: TrainOptions,
        reporter: Reporter,
        processes: Processes,
        hooks: Sequence[Hook],
    ) -> None:
        self.run, self.data, self.options, self.processes = run, data, options, processes
        self.hooks, self.hook_stops = hooks, False
        self.saved_at = time.monotonic()
        self.reporter = reporter if processes.first else SilentReporter()
        self.hparams = run.hparams
        self.schedule = make_schedule(self.hparams)
        self.dataset = data.split("train")
        torch.manual_seed(run.record.seed)
        model = run.new_model()
        if not processes.first:  # the same parameters, but dropout masks of its own
            torch.manual_seed(derived_seed(str(run.record.seed).encode(), processes.rank))
        self.engine: Engine = make_engine(
            options.engine,
            model,
            self.hparams,
            processes=processes,
            gradient_builder=options.gradient_builder,
            graph_directory=run.path / "training_graph",
            reporter=self.reporter,
        )
        self.metric = options.deciding_metric(model.task)
        self.quality = dev_quality(self.engine, data, self.hparams, options)
        self.state = TrainingState(step=0, epoch=0, batch=0)
        self.saved_step: int | None = None
        self.meter = Meter(data.features)

    def train(self) -> TrainResult:
        self._restore()
        stream = self._stream()
        self._report_data(stream)
        begun, total = self.state.step, self.hparams.train_steps
        if begun < total:
            self._probe(stream)
        else:
            self.reporter.message(f"nothing to train: already at step {begun} of {total}; give more train_steps")
        with (
            self._summaries() as summaries,
            StopRequest() as stop,
            self.reporter.task("training", total=max(begun, total), unit="steps") as task,
        ):
            task.advance(self.state.step)
            if self.quality is None:  # it may have been there when this run was interrupted
                self.state = self.state.model_copy(update={"evaluation_due": False})
            if self.state.evaluation_due:
                self._evaluate(summaries)
            self._start_measuring(stream)
            for hook in self.hooks:
                hook.begin(self.state.step)
            while (ending := self._ending(stop)) is None:
                self._step(stream, summaries, task)
                self._save_and_evaluate(summaries)
            if self.saved_step != self.state.step:
                self._save()
            for hook in self.hooks:
                hook.end(self.state.step)
        checkpoint = self.run.checkpoints.path(self.state.step)
        self.reporter.message(f"{ending} at step {self.state.step}; last checkpoint: {checkpoint}")
        return TrainResult(self.state.step, ending, self.state.best, checkpoint)

    @contextmanager
    def _summaries(self) -> Iterator[Summaries | None]:
        """None in all processes but the first."""
        if not self.processes.first:
            yield None
            return
        evaluated, task = not self.state.evaluation_due, self.engine.model.task
        with Summaries(self.run.path, step=self.state.step, evaluated=evaluated, task=task) as summaries:
            yield summaries

    def _stream(self) -> SharedStream:
        return SharedStream(
            self.dataset,
            batch_size=self.hparams.batch_size,
            max_length=self.hparams.max_length,
            seed=self.run.record.seed,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            position=Position(self.state.epoch, self.state.batch),
            augment=self.data.problem.augment,
        )

    def _start_measuring(self, stream: SharedStream) -> None:
        """Rates and costs count from here."""
        self.meter = Meter(self.data.features)
        stream.start_counting()
        self.processes.communication()

    def _report_data(self, stream: SharedStream) -> None:
        plan, count = stream.plan, self.processes.world_size
        of_lengths = {"longer_than_max_length": len(plan.skipped), "padding_share": plan.padding_share}
        self.reporter.event(
            "data",
            examples=len(self.dataset),
            batches=len(plan.batches),
            **(of_lengths if self.dataset.lengths else {}),
            **({} if count == 1 else {"processes": count}),
        )

    def _probe(self, stream: SharedStream) -> None:
        """Tries the batches of this epoch, and of dev, that need the most memory, so that it runs out at once."""
        lengths = self.dataset.example_lengths

        def longest(rows: np.ndarray) -> int:
            return int(lengths[rows].max())

        most_tokens = max(stream.plan.batches, key=lambda rows: len(rows) * longest(rows))
        most_attention = max(stream.plan.batches, key=lambda rows: len(rows) * longest(rows) ** 2)
        self._probe_step(most_tokens)
        if most_attention is not most_tokens:
            self._probe_step(most_attention)
        if self.quality is not None and self.processes.first:
            self.quality.probe()

    def _probe_step(self, rows: np.ndarray) -> None:
        self.engine.probe([self.dataset.batch(rows)] * self.hparams.accumulate_steps)

    def _restore(self) -> None:
        """Goes on from the newest checkpoint, or from a warm start."""
        first = self.processes.first
        if steps := self.processes.broadcast(self.run.checkpoints.steps() if first else []):
            state = EngineState({}, {})
            if first:
                state, self.state = self.run.checkpoints.load(steps[-1])
                self._forget_lost_best(steps)
            self.state = self.processes.broadcast(self.state)
            self.saved_step = self.state.step
            self.engine.load(state)
            if first:
                self.run.checkpoints.mark_best(self.state.best)
            self.reporter.message(f"resuming from step {self.state.step}")
            if change := schedule_change(self.hparams, self.run.train_steps_before, self.state.step):
                self.reporter.message(change)
            return
        if first:
            with torch.no_grad():
                self.engine.model.initialize(self._examples())
            if self.options.warm_start is not None:
                match = warm_start(self.engine.model, read_parameters(self.options.warm_start))
                self.reporter.message(f"warm start from {self.options.warm_start}: {match}")
        if self.processes.world_size > 1:
            tensors = named_tensors(self.engine.model)
            load_parameters(self.engine.model, self.processes.broadcast_tensors(tensors))

    def _forget_lost_best(self, steps: Sequence[int]) -> None:
        """The user may have removed checkpoints, on the advice of an error for one."""
        best = self.state.best
        if best is not None and best.step not in steps:
            self.state = self.state.model_copy(update={"best": None, "evaluations_without_gain": 0})
            self.reporter.message(
                f"the best checkpoint, of step {best.step}, is gone: which one is best is decided anew"
            )

    def _examples(self) -> Iterator[Mapping[str, Tensor]]:
        """All training data, for `Model.initialize`; nothing is read, or reported, unless it is asked for."""
        device = next(self.engine.model.parameters()).device
        order = np.argsort(self.dataset.example_lengths, kind="stable")
        with self.reporter.task("initializing", total=len(order), unit="examples") as task:
            for start in range(0, len(order), INITIALIZE_BATCH):
                rows = order[start : start + INITIALIZE_BATCH]
                yield tensors_from(self.dataset.batch(rows), device)
                task.advance(len(rows))

    def _ending(self, stop: StopRequest) -> Ending | None:
        """Why to end now, if so; the same in all processes."""
        if self.state.step >= self.hparams.train_steps:
            return Ending.FINISHED
        patience = self.options.early_stopping_evals
        if patience is not None and self.state.evaluations_without_gain >= patience:
            return Ending.EARLY_STOPPING
        wished = self.processes.largest(2 if stop else int(self.hook_stops))
        return (None, Ending.HOOK, Ending.INTERRUPTED)[wished]

    def _step(self, stream: SharedStream, summaries: Summaries | None, task: Task) -> None:
        step, position = self.state.step + 1, stream.position
        for hook in self.hooks:
            hook.before_step(step)
        learning_rate = self.schedule(step)
        batches = [next(stream) for _ in range(self.hparams.accumulate_steps)]
        metrics = self.engine.step(batches, learning_rate=learning_rate)
        if not (metrics.skipped or (math.isfinite(metrics.loss) and math.isfinite(metrics.gradient_norm))):
            raise self._not_finite(step, position, batches, metrics)
        self.meter.add(batches, metrics)
        after = stream.position
        self.state = self.state.model_copy(update={"step": step, "epoch": after.epoch, "batch": after.batch})
        task.advance(1, loss=metrics.loss)
        for hook in self.hooks:
            self.hook_stops |= bool(hook.after_step(step, metrics))
        if step % self.options.log_every_steps == 0 or step == self.hparams.train_steps:
            self._log(stream, summaries, {"learning_rate": learning_rate, "epoch": after.epoch})

    def _log(self, stream: SharedStream, summaries: Summaries | None, more: dict[str, float]) -> None:
        """A point of the training curves."""
        costs = self.processes.communication()
        if summaries is None:
            return
        costs = {name: cost / self.meter.steps for name, cost in costs.items()}
        rates = self.meter.flush()
        rates = rates if self.processes.world_size == 1 else stream.rates_of_all(rates)
        values = {**rates, **more, **costs}
        summaries.scalars("train", self.state.step, values)
        self.reporter.event("training", step=self.state.step, **values)

    def _save_and_evaluate(self, summaries: Summaries | None) -> None:
        """Whatever is due after this step. What an evaluation found is added to the checkpoint written before it."""
        started, step = time.perf_counter(), self.state.step
        last = step == self.hparams.train_steps
        due = last or step % self.options.eval_every_steps == 0
        if due or step % self.options.save_every_steps == 0 or self._save_is_overdue():
            self.state = self.state.model_copy(update={"evaluation_due": due and self.quality is not None})
            self._save()
        if self.state.evaluation_due:
            self._evaluate(summaries)
        self.meter.pause(time.perf_counter() - started)

    def _save_is_overdue(self) -> bool:
        """The same in all processes."""
        seconds = self.options.save_every_seconds
        return seconds is not None and bool(self.processes.largest(int(time.monotonic() - self.saved_at >= seconds)))

    def _save(self) -> None:
        state = self.engine.state()
        self.saved_step, self.saved_at = self.state.step, time.monotonic()
        if not self.processes.first:
            return
        path = self.run.checkpoints.save(state, self.state)
        self.run.checkpoints.prune(self.options.keep_last)
        self.reporter.event("checkpoint", step=self.state.step, path=str(path))

    def _evaluate(self, summaries: Summaries | None) -> None:
        """Evaluates on dev and records the outcome. Until then it stays due, so that a kill repeats it."""
        assert self.quality is not None
        started, step = time.perf_counter(), self.state.step
        try:
            measured = self.quality.measure(self.reporter, self.processes)
        except NotFiniteError as error:
            raise self._diverged(error) from error
        self._remember(measured.values)
        if summaries is None:  # the first process writes
            return
        summaries.scalars("evaluation", step, {**measured.values, "seconds": time.perf_counter() - started})
        measured.show(summaries, step)
        summaries.refresh()
        self.reporter.event("evaluation", step=step, **measured.values)
        self.run.checkpoints.record(self.state)
        self.run.checkpoints.prune(self.options.keep_last)

    def _remember(self, values: dict[str, float]) -> None:
        """Compares this evaluation with the best so far; it is no longer due."""
        metric, best = self.metric, self.state.best
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        gained = best is None or best.metric != metric or sign * values[metric] > sign * best.value
        without_gain = 0 if gained else self.state.evaluations_without_gain + 1
        if best is None or gained or values[metric] == best.value:  # of equals the later one: BLEU may start with zeros
            best = BestEvaluation(step=self.state.step, metric=metric, value=values[metric])
        self.state = self.state.model_copy(
            update={"best": best, "evaluations_without_gain": without_gain, "evaluation_due": False}
        )

    def _not_finite(
        self, step: int, position: Position, batches: Sequence[Batch], metrics: StepMetrics
    ) -> TrainingError:
        """Saves the batches of all processes that broke the loss, in the order of the data, to be looked at."""
        file = self.run.path / f"not-finite-step-{step:08d}.npz"
        by_process = self.processes.gather(batches)
        union = [batch for of_all in zip(*by_process, strict=True) for batch in of_all]
        arrays: dict[str, Any] = {f"{name}_{i}": ids for i, batch in enumerate(union) for name, ids in batch.items()}
        if self.processes.first:
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays, step=step, epoch=position.epoch, batch=position.batch)
        return TrainingError(
            f"step {step}: the loss is {metrics.loss}, the gradient norm {metrics.gradient_norm}; the parameters are "
            f"those of step {step - 1}; its batch (epoch {position.epoch}, batch {position.batch}) is in {file}",
            help=_AGAINST_DIVERGENCE,
        )

    def _diverged(self, error: NotFiniteError) -> TrainingError:
        """Of an evaluation, which is the first to see what the last update has spoiled."""
        earlier = [step for step in self.run.checkpoints.steps() if step < self.state.step]
        start = f", perhaps from {self.run.checkpoints.path(earlier[-1])} by --warm-start" if earlier else ""
        return TrainingError(
            f"step {self.state.step}: {error.message}: training has diverged", help=_AGAINST_DIVERGENCE + start
        )
