"""The engine that lets torch do everything: eager or compiled, float32 or bfloat16 autocast, CPU or CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from t2tdeploy.errors import TrainingError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.training.engine import Batch, EngineState, EvaluationSums, StepMetrics
from t2tdeploy.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state, set_learning_rate
from t2tdeploy.training.parameters import load_parameters, named_tensors, tensors_from

_RNG = "rng/"


class TorchEngine:
    """An `Engine` on torch autograd.

    Args:
        model: trained in place; moved to `device`.
        hparams: optimizer, clipping, label smoothing, precision, compile.
        device: default: CUDA if there is one, else the CPU.
    """

    def __init__(self, model: Model, hparams: HParams, *, device: torch.device | None = None) -> None:
        self.device = device or default_device()
        self._model = model.to(self.device)
        self._hparams = hparams
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = make_optimizer(self._parameters, hparams)
        self._loss: Callable[[dict[str, Tensor]], Tensor] = self._summed_loss
        if hparams.compile:
            self._loss = torch.compile(self._summed_loss, dynamic=True)

    @property
    def model(self) -> Model:
        return self._model

    def step(self, batches: Sequence[Batch], *, learning_rate: float) -> StepMetrics:
        self._model.train()
        labels = sum(int(np.count_nonzero(batch["targets"])) for batch in batches)
        with memory_errors(_shape(batches[0])):
            losses = [self._backward(batch, labels) for batch in batches]
            norm = self._clip()
            # The one wait for the device: both numbers come back in one transfer.
            loss, gradient_norm = torch.stack([torch.stack(losses).sum(), norm]).tolist()
            if math.isfinite(loss) and math.isfinite(gradient_norm):
                set_learning_rate(self._optimizer, learning_rate)
                self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return StepMetrics(loss, labels, gradient_norm)

    def evaluate(self, batch: Batch) -> EvaluationSums:
        self._model.eval()
        with memory_errors(_shape(batch)):
            return evaluation_sums(self._model, batch)

    def probe(self, batches: Sequence[Batch]) -> None:
        # The copy is kept off the device, whose memory is what is measured.
        before = EngineState(*({name: tensor.to("cpu", copy=True) for name, tensor in t.items()} for t in self.state()))
        try:
            for _ in range(2):
                self.step(batches, learning_rate=0.0)
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            self.load(before)

    def state(self) -> EngineState:
        model = {name: tensor.detach() for name, tensor in named_tensors(self._model).items()}
        moments = optimizer_state(self._optimizer, self._names)
        return EngineState(model, {**moments, **_random_states(self.device)})

    def load(self, state: EngineState) -> None:
        load_parameters(self._model, state.model)
        moments = {name: value for name, value in state.optimizer.items() if not name.startswith(_RNG)}
        load_optimizer_state(self._optimizer, self._names, moments)
        _set_random_states({name: value for name, value in state.optimizer.items() if name.startswith(_RNG)})

    def _summed_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Training loss summed over the labels of `batch`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._hparams.precision == "bfloat16"):
            logits = self._model(batch)
            return self._model.loss(logits, batch, label_smoothing=self._hparams.label_smoothing).numerator

    def _backward(self, batch: Batch, labels: int) -> Tensor:
        """Adds the gradients of this batch's share of the mean loss; returns that share."""
        share = self._loss(tensors_from(batch, self.device)) / labels
        torch.autograd.backward(share)
        return share.detach()

    def _clip(self) -> Tensor:
        """Clips the gradients' global norm (Pascanu et al. 2013); returns the norm before."""
        largest = self._hparams.clip_grad_norm
        if largest is not None:
            return torch.nn.utils.clip_grad_norm_(self._parameters, largest)
        return torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])


def default_device() -> torch.device:
    """CUDA if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def evaluation_sums(model: Model, batch: Batch) -> EvaluationSums:
    """Loss and accuracy of a model in evaluation mode on one batch, in float32."""
    tensors = tensors_from(batch, next(model.parameters()).device)
    logits = model(tensors)
    terms = model.loss(logits, tensors, label_smoothing=0.0)
    return EvaluationSums(float(terms.numerator), int(terms.denominator), int(model.correct(logits, tensors)))


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {f"{_RNG}cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{_RNG}cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states[f"{_RNG}cpu"].cpu())
    if f"{_RNG}cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"{_RNG}cuda"].cpu())


def _shape(batch: Batch) -> str:
    return " × ".join(str(size) for size in batch["targets"].shape) + " target tokens"


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turns the ways torch says `out of memory` into one TrainingError on a batch of `what`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"out of memory on a batch of {what}",
            help="lower batch_size, e.g. --hparams batch_size=2048; accumulate_steps=2 keeps the sum the same; "
            "a lower max_length leaves the longest examples out",
        ) from error
