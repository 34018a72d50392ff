"""What a program may do between the steps of a training run."""

from __future__ import annotations

from t2tdeploy.training.engine import StepMetrics


class Hook:
    """Does nothing; a subclass overrides what it needs. With several processes each calls its own."""

    def begin(self, step: int) -> None:
        """Training begins after `step` steps."""

    def before_step(self, step: int) -> None:
        """Step number `step`, from 1, comes next."""

    def after_step(self, step: int, metrics: StepMetrics) -> bool | None:
        """Step `step` is done, and what it measured is finite. True ends training here, with a checkpoint."""

    def end(self, step: int) -> None:
        """Training has ended, and its last checkpoint is written."""
