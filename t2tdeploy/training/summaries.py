"""What a run writes for people to look at: TensorBoard events, metrics.jsonl and curve.png."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from t2tdeploy.files import atomic_file, naming
from t2tdeploy.models.model import Model
from t2tdeploy.pictures import as_label
from t2tdeploy.training.engine import Batch
from t2tdeploy.training.evaluate import Example
from t2tdeploy.training.parameters import tensors_from

if TYPE_CHECKING:  # heavy: imported where a picture is drawn
    from matplotlib.figure import Figure

METRICS, CURVE = "metrics.jsonl", "curve.png"


class Axes(NamedTuple):
    """What the two axes of curve.png show.

    Args:
        loss: the label of the losses' axis.
        score: the value of evaluations that has the other axis, and its label.
    """

    loss: str
    score: str
    score_label: str


AXES = {  # by task
    "translate": Axes("loss, nats per token", "bleu", "BLEU"),
    "classify": Axes("loss, nats per example", "accuracy", "accuracy"),
    "regress": Axes("loss, squared standard deviations", "rmse", "RMSE"),
}

_SHARES = ("bleu", "accuracy")  # never below 0
_FEW_POINTS = 3


class Summaries:
    """Writes the curves of one run; a context manager.

    Args:
        directory: the run directory.
        task: of the model.
        step: the step the run goes on from; what was written for later steps, before a kill, is taken back.
        evaluated: False takes back the evaluation of `step` itself too, as it will be done again.
    """

    def __init__(self, directory: Path, *, step: int, evaluated: bool = True, task: str = "translate") -> None:
        self._directory, self._axes = directory, AXES[task]
        self._lines = [
            line
            for line in read_metrics(directory)
            if line["step"] < step or (line["step"] == step and (evaluated or line["group"] != "evaluation"))
        ]
        with atomic_file(directory / METRICS) as file:
            file.write_text("".join(json.dumps(line) + "\n" for line in self._lines), encoding="utf-8")
        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def __enter__(self) -> Self:
        self._thread_errors, threading.excepthook = threading.excepthook, self._hear
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with naming(self._directory):
                self._writer.close()
        except OSError:
            if error is None:
                raise  # else it would hide the error that ended training, on a full disk the same
        finally:
            threading.excepthook = self._thread_errors

    def _hear(self, error: threading.ExceptHookArgs) -> None:
        """Keeps quiet what ended the thread of TensorBoard's writer: our next call to it raises the same."""
        if not type(error.thread).__module__.startswith("tensorboard."):
            self._thread_errors(error)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve `group/NAME`, and one line of metrics.jsonl."""
        with naming(self._directory):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
        line = {"group": group, "step": step, **values}
        self._lines.append(line)
        path = self._directory / METRICS
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def examples(self, step: int, examples: Sequence[Example]) -> None:
        """Sample translations, as text."""
        for number, example in enumerate(examples):
            text = f"**source** {example.source}\n\n**reference** {example.reference}\n\n**model** {example.hypothesis}"
            with naming(self._directory):
                self._writer.add_text(f"translation/{number}", text, step)

    def attention(self, step: int, model: Model, batch: Batch, tokens: Mapping[str, Sequence[str]]) -> None:
        """A picture of where the last decoder layer looks, if the model can tell.

        Args:
            batch: of one example.
            tokens: feature -> its pieces, for the axes.
        """
        cross_attention = getattr(model, "cross_attention", None)
        if cross_attention is None:
            return
        model.eval()
        with torch.no_grad():
            weights = cross_attention(tensors_from(batch, next(model.parameters()).device))
        # [batch, heads, target_length, source_length] -> mean over heads of the one example
        picture = attention_picture(weights[0].mean(dim=0).float().cpu().numpy(), tokens["inputs"], tokens["targets"])
        with naming(self._directory):
            self._writer.add_figure("attention", picture, step)

    def picture(self, name: str, step: int, picture: Figure) -> None:
        """A picture, and as NAME.png the newest of its kind."""
        with atomic_file(self._directory / f"{name}.png") as file:
            picture.savefig(file, format="png", dpi=110)
        with naming(self._directory):
            self._writer.add_figure(name, picture, step)

    def refresh(self) -> None:
        """Redraws curve.png and flushes TensorBoard."""
        with naming(self._directory):
            self._writer.flush()
        figure = curve(self._lines, self._axes)
        with atomic_file(self._directory / CURVE) as file:
            figure.savefig(file, format="png", dpi=110)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut short by a kill is left out."""
    path = directory / METRICS
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def curve(lines: Sequence[Mapping[str, Any]], shown: Axes = AXES["translate"]) -> Figure:
    """Training and evaluation loss over steps, and a score such as BLEU on an axis of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    left.set_xlabel("step")
    left.set_ylabel(shown.loss)
    right = left.twinx()
    right.set_ylabel(shown.score_label)
    for axes, group, name, style in (
        (left, "train", "loss", "tab:blue"),
        (left, "evaluation", "loss", "tab:orange"),
        (right, "evaluation", shown.score, "tab:green"),
    ):
        points = [(line["step"], line[name]) for line in lines if line["group"] == group and name in line]
        if points:
            marker = "." if group != "train" or len(points) < _FEW_POINTS else ""  # a line of one point is nothing
            axes.plot(*zip(*points, strict=True), color=style, label=f"{group} {name}", marker=marker)
    if right.lines and shown.score in _SHARES:
        right.set_ylim(bottom=0)
        if not any(line.get(shown.score) for line in lines):  # matplotlib would centre a line of zeros
            right.set_ylim(top=1)
    if left.lines or right.lines:
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def attention_picture(weights: np.ndarray, source: Sequence[str], target: Sequence[str]) -> Figure:
    """A heat map of weights [target_length, source_length] with the tokens on its axes."""
    from matplotlib.figure import Figure

    height, width = weights.shape
    figure = Figure(figsize=(2 + 0.3 * width, 1 + 0.3 * height), layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="viridis", vmin=0.0, aspect="auto")
    axes.set_xticks(range(width), [_drawable(token) for token in source[:width]], rotation=90)
    axes.set_yticks(range(height), [_drawable(token) for token in target[:height]])
    return figure


def _drawable(token: str) -> str:
    """SentencePiece's word mark as an underscore."""
    return as_label(token.replace("\u2581", "_"))
