"""Curves on disk: taken back to the step a run resumes from, and drawn."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.evaluate import Example
from t2tdeploy.training.summaries import Summaries, attention_picture, curve, read_metrics
from tests.limits import no_file_larger_than

from .conftest import make_run


def test_lines_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    with Summaries(tmp_path, step=0) as summaries:
        for step in (10, 20, 30):
            summaries.scalars("train", step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"group": "tra')  # killed while writing
    with Summaries(tmp_path, step=20) as summaries:
        summaries.scalars("train", 30, {"loss": 7.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(10, 0.1), (20, 0.05), (30, 7.0)]


def test_tensorboard_reads_everything(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    model = make_run(tmp_path / "run", data, data_dir).new_model()
    batch = data.split("dev").batch(np.array([0]))
    tokens = {name: [str(token) for token in ids[0]] for name, ids in batch.items()}
    with Summaries(tmp_path, step=0) as summaries:
        summaries.scalars("train", 5, {"loss": 2.5})
        summaries.examples(5, [Example("a b", "b a", "b b")])
        summaries.attention(5, model, batch, tokens)
        summaries.attention(6, torch.nn.Identity(), batch, tokens)  # type: ignore[arg-type]  # knows no attention
        summaries.refresh()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(5, 2.5)]
    assert [event.step for event in events.Images("attention")] == [5]
    assert events.Tags()["tensors"] == ["translation/0/text_summary"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_curve_shows_what_there_is() -> None:
    lines = [
        {"group": "train", "step": 1, "loss": 3.0},
        {"group": "evaluation", "step": 1, "loss": 2.0, "bleu": 10.0},
        {"group": "evaluation", "step": 2, "loss": 1.0, "bleu": 20.0},
    ]
    left, right = curve(lines).axes
    assert [line.get_label() for line in left.lines] == ["train loss", "evaluation loss"]
    assert right.lines[0].get_ydata().tolist() == [10.0, 20.0]  # type: ignore[union-attr]
    assert not any(axes.lines for axes in curve([]).axes)


@pytest.mark.parametrize("points", [1, 2, 3])
def test_few_points_of_training_are_marked(points: int) -> None:
    left, _ = curve([{"group": "train", "step": step, "loss": 3.0} for step in range(points)]).axes
    assert left.lines[0].get_marker() == ("" if points == 3 else ".")


@pytest.mark.parametrize("scores", [[0.0], [0.0, 0.0], [20.0, 30.0]])
def test_the_axis_of_a_score_begins_at_0(scores: list[float]) -> None:
    lines = [{"group": "evaluation", "step": step, "loss": 1.0, "bleu": score} for step, score in enumerate(scores)]
    _, right = curve(lines).axes
    low, high = right.get_ylim()
    assert low == 0
    assert high >= max(1.0, *scores, 0.0)


def test_attention_picture_is_labelled() -> None:
    (axes,) = attention_picture(np.eye(2, 3), ["▁a", "$", "c", "pad"], ["x", "y"]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["_a", r"\$", "c"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_one_error_that_names_the_place(tmp_path: Path) -> None:
    def write_much() -> None:
        with no_file_larger_than(2000), Summaries(tmp_path, step=0) as summaries:
            for step in range(100):
                summaries.examples(step, [Example("a " * 100, "b", "c")])  # TensorBoard's thread meets the error first

    with pytest.raises(OSError) as caught:
        write_much()
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path))
