"""How good a model is on dev while it trains, and what of it is shown: of translations, and of fixed outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from t2tdeploy.hparams import HParams
from t2tdeploy.models.beam_search import SearchOptions
from t2tdeploy.problems.batching import plan_evaluation
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.progress import Reporter
from t2tdeploy.tokenizer import Tokenizer
from t2tdeploy.training.engine import Batch, Engine
from t2tdeploy.training.evaluate import EvaluationReport, evaluate, probe_evaluation
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.predictions import PredictionReport, evaluate_predictions
from t2tdeploy.training.processes import Processes
from t2tdeploy.training.summaries import Summaries


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Args:
        values: the points of its curves, by name.
        show: writes texts and pictures of it, of a step.
    """

    values: dict[str, float]
    show: Callable[[Summaries, int], None]


class DevQuality(ABC):
    """What is measured on dev.

    Args:
        data: with a dev split.
    """

    def __init__(self, engine: Engine, data: ProblemData, hparams: HParams, options: TrainOptions) -> None:
        self.engine, self.data, self.hparams, self.options = engine, data, hparams, options
        self.dev = data.split("dev")

    @abstractmethod
    def probe(self) -> None:
        """Does what needs the most memory in `measure`.

        Raises:
            TrainingError: memory ran out.
        """

    @abstractmethod
    def measure(self, reporter: Reporter, processes: Processes) -> Measured:
        """Evaluates the engine's model; collective, and the same in all processes.

        Raises:
            NotFiniteError: the model has diverged.
        """


class TranslationQuality(DevQuality):
    """Loss given the true prefix, and BLEU and chrF of what the search writes."""

    def probe(self) -> None:
        probe_evaluation(
            self.engine.model,
            self.dev,
            options=self._search_options(),
            extra_length=self.hparams.extra_length,
            batch_size=self.hparams.batch_size,
            sentences=self.options.eval_sentences,
            decode=self.options.decode,
            score=self.engine.evaluate,
        )

    def measure(self, reporter: Reporter, processes: Processes) -> Measured:
        report = evaluate(
            self.engine.model,
            self.data,
            "dev",
            options=self._search_options(),
            extra_length=self.hparams.extra_length,
            batch_size=self.hparams.batch_size,
            sentences=self.options.eval_sentences,
            decode=self.options.decode,
            score=self.engine.evaluate,
            reporter=reporter,
            processes=processes,
        )

        def show(summaries: Summaries, step: int) -> None:
            summaries.examples(step, report.examples)
            first = self.dev.batch(np.array([0]))
            summaries.attention(step, self.engine.model, first, _pieces(first, self.data.tokenizers))

        return Measured(_curves(report), show)

    def _search_options(self) -> SearchOptions:
        return SearchOptions(beam_size=self.hparams.beam_size, alpha=self.hparams.alpha)


class PredictionQuality(DevQuality):
    """Loss and scores of predicted classes or numbers."""

    def probe(self) -> None:
        self.engine.model.eval()
        largest = plan_evaluation(self.dev.example_lengths, batch_size=self.hparams.batch_size)[0]
        self.engine.evaluate(self.dev.batch(largest))

    def measure(self, reporter: Reporter, processes: Processes) -> Measured:
        report: PredictionReport = evaluate_predictions(
            self.engine.model,
            self.data,
            "dev",
            batch_size=self.hparams.batch_size,
            score=self.engine.evaluate,
            processes=processes,
        )

        def show(summaries: Summaries, step: int) -> None:
            from t2tdeploy.training.class_pictures import pictures  # matplotlib: heavy

            for name, picture in pictures(report).items():
                summaries.picture(name, step, picture)

        return Measured(report.values, show)


def dev_quality(engine: Engine, data: ProblemData, hparams: HParams, options: TrainOptions) -> DevQuality | None:
    """What is measured for this model; None if there is no dev split.

    Raises:
        UserError: there is none, and the options are about evaluations.
    """
    options.require_dev(data.record.splits)
    if "dev" not in data.record.splits:
        return None
    kind = TranslationQuality if engine.model.autoregressive else PredictionQuality
    return kind(engine, data, hparams, options)


def _curves(report: EvaluationReport) -> dict[str, float]:
    losses, scores = report.losses, report.scores
    values = {"loss": losses.loss, "perplexity": losses.perplexity, "accuracy": losses.accuracy}
    return values if scores is None else {**values, "bleu": scores.bleu, "chrf": scores.chrf}


def _pieces(batch: Batch, tokenizers: dict[str, Tokenizer]) -> dict[str, list[str]]:
    """The tokens of the one example of `batch`, as text."""
    return {
        name: [tokenizers[name].decode([int(token)]) or f"⟨{int(token)}⟩" for token in batch[name][0]]
        for name in tokenizers
    }
