"""Means and rates of the training steps between two log lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.training.engine import Batch, StepMetrics


class Meter:
    """Collects steps; `flush` gives what they amount to and starts afresh.

    Args:
        features: of the batches.
        target: which of them is predicted; examples are counted too, unless it is text.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], target: str = "targets") -> None:
        self._texts = [name for name, spec in features.items() if spec.modality is Modality.SYMBOL]
        self._target = target
        self._start_afresh()

    @property
    def steps(self) -> int:
        """Steps since the last flush."""
        return self._steps

    def add(self, batches: Sequence[Batch], metrics: StepMetrics) -> None:
        """Counts one step."""
        self._steps += 1
        self._loss += metrics.loss * metrics.labels
        self._labels += metrics.labels
        if metrics.skipped:
            self._skipped += 1
        else:
            self._gradient_norm += metrics.gradient_norm
        for batch in batches:
            self._examples += len(batch[self._target])
            self._places += sum(batch[name].size for name in self._texts)
            self._tokens += sum(int(np.count_nonzero(batch[name])) for name in self._texts)

    def pause(self, seconds: float) -> None:
        """Leaves `seconds` of evaluation or saving out of the rates."""
        self._started += seconds

    def flush(self) -> dict[str, float]:
        """What the steps since the last flush amount to; at least one is needed.

        Returns:
            loss: mean per label; gradient_norm: mean per step that changed the parameters; steps_per_second;
            examples_per_second, unless the target is text; and where there is text tokens_per_second, without padding,
            and padding_share: pads among all places of the batches; skipped_steps, if there were any: those whose
            gradients overflowed in float16.
        """
        seconds = time.perf_counter() - self._started
        result = {
            "loss": self._loss / self._labels,
            "gradient_norm": self._gradient_norm / max(1, self._steps - self._skipped),
            "steps_per_second": self._steps / seconds,
            **({} if self._target in self._texts else {"examples_per_second": self._examples / seconds}),
            **(self._rates_of_text(seconds) if self._texts else {}),
            **({"skipped_steps": self._skipped} if self._skipped else {}),
        }
        self._start_afresh()
        return result

    def _rates_of_text(self, seconds: float) -> dict[str, float]:
        return {"tokens_per_second": self._tokens / seconds, "padding_share": 1.0 - self._tokens / self._places}

    def _start_afresh(self) -> None:
        self._steps = self._skipped = self._labels = self._examples = self._tokens = self._places = 0
        self._loss = self._gradient_norm = 0.0
        self._started = time.perf_counter()
