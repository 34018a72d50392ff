"""How a variant of a bundle that classifies or regresses compares with its float32 graph, and whether that will do."""

from __future__ import annotations

from dataclasses import dataclass, field

from t2tdeploy.export.tensorrt_variant import Build

MAX_ACCURACY_LOSS = 0.005
MAX_ERROR_GROWTH = 0.02


@dataclass(frozen=True)
class ClassifierGate:
    """The least that a variant must reach.

    Args:
        max_accuracy_loss: share of examples that may be lost; 0.005 is half a point. Unless it is 0, one example may be
            lost however few there are: less than that cannot be told.
        max_error_growth: by which share the root of the mean squared error may grow, if the model regresses.
    """

    max_accuracy_loss: float = MAX_ACCURACY_LOSS
    max_error_growth: float = MAX_ERROR_GROWTH

    def tolerated(self, examples: int) -> float:
        """How many of the examples compared may be lost by the share alone, a hair more against rounding."""
        return self.max_accuracy_loss * examples + 1e-6

    def allowed(self, examples: int) -> float:
        """The same, but at least one, unless none is to be lost."""
        tolerated = self.tolerated(examples)
        return max(tolerated, 1.0) if self.max_accuracy_loss > 0 else tolerated


@dataclass(frozen=True)
class ClassifierSpeed:
    """Examples per second of both graphs, medians over rounds in turns.

    Args:
        speedup: the median of the rounds' ratios.
    """

    examples_per_second: float
    reference_examples_per_second: float
    speedup: float
    batch_size: int
    threads: int
    cpu: str


@dataclass(frozen=True)
class ClassifierMeasured:
    """What the manifest says of a variant, as it was compared with the variant `reference`.

    Args:
        examples: compared.
        identical: share of them with the same likeliest class, or set of classes; None if the model regresses.
        accuracy, reference_accuracy: of both graphs; None likewise.
        rmse, reference_rmse: root of the mean squared error of both; None if the model classifies.
        calibrated_on: None: the variant needs no calibration.
        run_on: the kind of processor that ran the variant, which may be another than it is made for.
        speed: None if that is so.
        build: of a variant for TensorRT: whether an engine was built.
        failures: what of the gate it did not reach.
        forced: it was written all the same.
    """

    reference: str
    compared_on: str
    calibrated_on: str | None
    run_on: str
    examples: int
    identical: float | None
    accuracy: float | None
    reference_accuracy: float | None
    rmse: float | None
    reference_rmse: float | None
    speed: ClassifierSpeed | None
    bytes: int
    reference_bytes: int
    gate: ClassifierGate
    build: Build | None = None
    failures: list[str] = field(default_factory=list)
    forced: bool = False
