"""Means are per label, pads are counted."""

from __future__ import annotations

import numpy as np
import pytest

from t2tdeploy.training.engine import StepMetrics
from t2tdeploy.training.meter import Meter
from tests.models.tiny import features


def test_means_and_shares() -> None:
    meter = Meter(features(30))
    full = {"inputs": np.array([[5, 1]]), "targets": np.array([[1]])}
    padded = {"inputs": np.array([[5, 1, 0]]), "targets": np.array([[4, 1, 0, 0]])}
    meter.add([full], StepMetrics(loss=4.0, labels=1, gradient_norm=1.0))
    meter.add([padded, full], StepMetrics(loss=1.0, labels=3, gradient_norm=2.0))
    values = meter.flush()
    assert values["loss"] == pytest.approx(7 / 4)
    assert values["gradient_norm"] == pytest.approx(1.5)
    assert values["padding_share"] == pytest.approx(3 / 13)
    meter.add([full], StepMetrics(loss=9.0, labels=1, gradient_norm=1.0))
    assert meter.flush()["loss"] == 9.0
