"""Scores are what their definitions say; a temperature mends confidence and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from t2tdeploy.errors import InputError
from t2tdeploy.problems.class_metrics import (
    calibration_error,
    classification_scores,
    confusion_matrix,
    fit_temperature,
    probabilities,
    regression_scores,
    reliability,
)

RANDOM = np.random.default_rng(3)


def drawn(logits: np.ndarray) -> np.ndarray:
    """Labels from the distribution that the logits say."""
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return (shares.cumsum(-1) > RANDOM.random((len(logits), 1))).argmax(-1)


LOGITS = RANDOM.normal(size=(4000, 7)) * 2
LABELS = drawn(LOGITS)


def test_scores_by_hand() -> None:
    logits = np.eye(3)[[0, 0, 1, 2, 2, 1]]
    scores = classification_scores(logits, np.array([0, 1, 1, 2, 2, 2]), ("a", "b", "c"))
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.accuracy_top5 is None  # of three classes
    a, b, c = scores.by_class.values()
    assert [(one.precision, one.recall, one.examples) for one in (a, b, c)] == [
        (0.5, 1.0, 1), (0.5, 0.5, 2), (1.0, pytest.approx(2 / 3), 3),
    ]  # fmt: skip
    assert c.f1 == pytest.approx(0.8)
    assert scores.f1 == pytest.approx((2 / 3 + 0.5 + 0.8) / 3)
    assert (confusion_matrix(logits, np.array([0, 1, 1, 2, 2, 2])) == [[1, 0, 0], [1, 1, 0], [0, 1, 2]]).all()


def test_the_five_likeliest_and_the_area_under_the_curve() -> None:
    scores = classification_scores(LOGITS, LABELS, [*"abcdefg"])
    ranks = (np.take_along_axis(LOGITS, LABELS[:, None], -1) < LOGITS).sum(-1)
    assert scores.accuracy_top5 == pytest.approx((ranks < 5).mean())
    found, is_first = probabilities(LOGITS, LABELS)[:, 0], LABELS == 0
    pairs = found[is_first][:, None] - found[~is_first][None]
    assert scores.by_class["a"].auc == pytest.approx((pairs > 0).mean())


@pytest.mark.parametrize("labels", [LABELS[:12], np.where(LABELS[:12] == 3, 5, LABELS[:12]), np.full(12, 2)])
def test_means_are_the_macro_averages_of_scikit_learn(labels: np.ndarray) -> None:
    scores = classification_scores(LOGITS[:12], labels, [*"abcdefg"])
    wanted = precision_recall_fscore_support(labels, LOGITS[:12].argmax(-1), average="macro", zero_division=0.0)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx(wanted[:3])


def test_empty_sets_of_labels_that_are_left_empty() -> None:
    scores = classification_scores(np.full((2, 3), -9.0), np.zeros((2, 3)), ("a", "b", "c"))
    assert (scores.accuracy, scores.f1) == (1.0, 0.0)


def test_a_class_that_a_split_lacks_has_no_area_and_hurts_no_other() -> None:
    scores = classification_scores(LOGITS[:, :3], np.minimum(LABELS, 1), ("a", "b", "never"))
    assert (scores.by_class["never"].auc, scores.by_class["never"].recall) == (None, 0.0)
    assert scores.auc is not None
    right = classification_scores(np.eye(3)[[0, 1, 1]], np.array([0, 1, 1]), ("a", "b", "never"))
    assert (right.accuracy, right.precision, right.recall, right.f1) == (1.0, 1.0, 1.0, 1.0)
    alone = classification_scores(LOGITS[:, :2], np.zeros(len(LOGITS), np.int64), ("a", "b"))
    assert alone.auc is None


def test_sets_of_labels_are_right_as_a_whole() -> None:
    labels = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    scores = classification_scores(np.array([[3.0, -3.0], [3.0, -1.0], [-2.0, -2.0]]), labels, ("x", "y"))
    assert scores.accuracy == pytest.approx(2 / 3)
    assert (scores.by_class["x"].f1, scores.by_class["y"].recall) == (1.0, 0.0)


def test_a_set_of_one_label_has_the_scores_of_that_label() -> None:
    labels = np.array([[1.0], [1.0], [1.0], [0.0], [0.0]])
    scores = classification_scores(np.array([[3.0], [2.0], [-1.0], [-2.0], [-3.0]]), labels, ("spam",))
    (spam,) = scores.by_class.values()
    assert (spam.precision, spam.recall, spam.examples) == (1.0, pytest.approx(2 / 3), 3)
    assert (scores.precision, scores.f1) == (1.0, pytest.approx(0.8))


def test_numbers_by_hand() -> None:
    scores = regression_scores(np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0, 5.0]))
    assert scores.rmse == pytest.approx((2 / 3) ** 0.5)
    assert scores.mae == pytest.approx(2 / 3)
    assert scores.r2 == pytest.approx(1 - 2 / 8)
    assert regression_scores(np.ones((2, 2)), np.ones((2, 2))).r2 is None


@pytest.mark.parametrize("too_sure", [0.3, 1.0, 4.0])
def test_the_temperature_is_what_the_logits_were_multiplied_by(too_sure: float) -> None:
    found = fit_temperature(LOGITS * too_sure, LABELS)
    assert found == pytest.approx(too_sure, rel=0.05)
    mended = calibration_error(reliability(LOGITS * too_sure, LABELS, temperature=found))
    assert mended < 0.03
    if too_sure > 1:
        assert mended < 0.3 * calibration_error(reliability(LOGITS * too_sure, LABELS))


def test_the_temperature_of_sets_of_labels() -> None:
    logits = RANDOM.normal(size=(4000, 3)) * 2
    labels = (RANDOM.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.05)


def test_where_all_is_right_the_temperature_stays_within_its_bounds() -> None:
    assert fit_temperature(np.eye(3), np.arange(3)) == pytest.approx(0.05, rel=0.01)


def test_every_prediction_is_in_one_bin() -> None:
    sure = reliability(np.array([[1000.0, 0.0], [0.0, 0.0]]), np.array([0, 1]), bins=10)
    assert sure.count.sum() == 2
    assert (sure.count[9], sure.accuracy[9], sure.confidence[9]) == (1, 1.0, 1.0)
    assert calibration_error(sure) == pytest.approx(0.25)  # 0.5 sure of class 0, which is wrong; right of the other


def test_without_examples_there_are_no_scores() -> None:
    for call in (
        lambda: classification_scores(np.zeros((0, 2)), np.zeros(0, np.int64), ("a", "b")),
        lambda: regression_scores(np.zeros(2), np.zeros(3)),
        lambda: fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64)),
    ):
        with pytest.raises(InputError, match="labels: one of each"):
            call()
