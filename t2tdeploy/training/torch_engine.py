"""The engine that lets torch do everything: eager or compiled, float32 or 16-bit autocast, CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from t2tdeploy.errors import TrainingError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.training.engine import Batch, EvaluationSums
from t2tdeploy.training.gradient_engine import GradientEngine, memory_errors, size_of
from t2tdeploy.training.parameters import tensors_from
from t2tdeploy.training.precision import autocast
from t2tdeploy.training.processes import ALONE, Processes


class TorchEngine(GradientEngine):
    """An `Engine` on torch autograd; the arguments are those of `GradientEngine`."""

    def __init__(
        self, model: Model, hparams: HParams, *, device: torch.device | None = None, processes: Processes = ALONE
    ) -> None:
        super().__init__(model, hparams, device=device, processes=processes)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, as in onnxruntime
        self._loss: Callable[[dict[str, Tensor]], Tensor] = self._summed_loss
        if hparams.compile:
            self._loss = torch.compile(self._summed_loss, dynamic=True)

    def evaluate(self, batch: Batch) -> EvaluationSums:
        self._model.eval()
        with memory_errors(size_of(self._model, [batch])):
            return evaluation_sums(self._model, batch)

    def _accumulate(self, batches: Sequence[Batch], labels: int, loss_scale: float) -> Tensor:
        losses = [self._backward(batch, labels, loss_scale) for batch in batches]
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self.device)

    def _summed_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Training loss summed over the labels of `batch`."""
        with autocast(self.device.type, self._hparams.precision):
            logits = self._model(batch)
            return self._model.loss(logits, batch, label_smoothing=self._hparams.label_smoothing).numerator

    def _backward(self, batch: Batch, labels: int, loss_scale: float) -> Tensor:
        """Adds the gradients of this batch's share of the mean loss; returns its summed loss."""
        with _normalization_errors(size_of(self._model, [batch])):
            summed = self._loss(tensors_from(batch, self.device))
        torch.autograd.backward(summed / labels * loss_scale)
        return summed.detach()


@contextmanager
def _normalization_errors(what: str) -> Iterator[None]:
    """Turns what torch says of a batch without a variance into a TrainingError on a batch of `what`."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise TrainingError(
            f"batch normalization finds no variance in a batch of {what}: {error}",
            help="choose batch_size so that no batch is a single example, or --engine ort, for which its variance is 0",
        ) from error


@torch.no_grad()
def evaluation_sums(model: Model, batch: Batch) -> EvaluationSums:
    """Loss and accuracy of a model in evaluation mode on one batch, in float32."""
    tensors = tensors_from(batch, next(model.parameters()).device)
    logits = model(tensors)
    terms = model.loss(logits, tensors, label_smoothing=0.0)
    sums = float(terms.numerator), int(terms.denominator), int(model.correct(logits, tensors))
    return EvaluationSums(*sums, None if model.autoregressive else logits.float().cpu().numpy())
