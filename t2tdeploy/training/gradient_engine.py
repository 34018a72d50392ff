"""What every engine shares that leaves the update to torch: parameters, optimizer, clipping, probing, state.

A subclass only says how gradients come about (`_accumulate`) and how a batch is scored (`evaluate`).
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from t2tdeploy.errors import TrainingError
from t2tdeploy.features import Modality
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.training.engine import Batch, Engine, EngineState, EvaluationSums, StepMetrics
from t2tdeploy.training.gradient_buckets import GradientBuckets
from t2tdeploy.training.loss_scale import LossScale
from t2tdeploy.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state, set_learning_rate
from t2tdeploy.training.parameters import load_parameters, named_tensors
from t2tdeploy.training.processes import ALONE, Processes

_RNG, _LOSS_SCALE = "rng/", "loss_scale/"


class GradientEngine(Engine):
    """An `Engine` whose gradients lie in `parameter.grad` and whose update is one of torch's optimizers.

    With several processes, each is given its own batches, and a step is one on the union of all of them: gradients are
    scaled by the labels of all processes and added up. Then every process computes the same update, so that parameters
    and moments are the same bits everywhere. A parameter that no batch uses has a gradient of zero, not none.

    Args:
        model: trained in place; moved to `device`.
        hparams: optimizer, clipping, label smoothing, precision, compile.
        device: default: CUDA if there is one, else the CPU.
        processes: that train together; default: this one alone.

    Attributes:
        device: of the parameters.
    """

    fixed_gradients: ClassVar[bool] = False
    """True: `.grad` of every parameter is the same memory at every step, zero when `_accumulate` begins. With several
    processes that is so in any case; else it is none when `_accumulate` begins, and freed after the step."""

    def __init__(
        self, model: Model, hparams: HParams, *, device: torch.device | None = None, processes: Processes = ALONE
    ) -> None:
        self.device = device or default_device()
        self._model = model.to(self.device)
        self._hparams = hparams
        self._processes = processes
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        persistent = [tensor for tensor in named_tensors(model).values() if tensor not in self._names]
        self._shared_buffers = [buffer for buffer in persistent if buffer.is_floating_point()]
        self._optimizer = make_optimizer(self._parameters, hparams)
        self._loss_scale = LossScale(dynamic=hparams.precision == "float16")
        fixed = self.fixed_gradients or processes.world_size > 1
        self._buckets = GradientBuckets(self._parameters) if fixed else None

    @property
    def model(self) -> Model:
        return self._model

    @abstractmethod
    def _accumulate(self, batches: Sequence[Batch], labels: int, loss_scale: float) -> Tensor:
        """Adds the gradients of loss_scale / labels * (loss summed over `batches`) to every `parameter.grad`.

        Args:
            batches: those with labels, perhaps none at all.
            labels: of the whole step, those of other processes included.
            loss_scale: a power of two.

        Returns:
            the summed loss of `batches`, unscaled: [] float32 on the device.
        """

    @abstractmethod
    def evaluate(self, batch: Batch) -> EvaluationSums:
        raise NotImplementedError

    def step(self, batches: Sequence[Batch], *, learning_rate: float) -> StepMetrics:
        self._model.train()
        filled = [batch for batch in batches if batch[self._model.target].size]
        (labels,) = self._processes.sums([sum(self._model.count(batch) for batch in filled)])
        with memory_errors(size_of(self._model, filled)):
            self._clear_gradients()
            summed = self._accumulate(filled, labels, self._loss_scale.value)
            summed = self._add_up(summed)
            self._unscale()
            # The one wait for the device: both numbers come back in one transfer.
            loss, gradient_norm = torch.stack([summed / labels, self._clip()]).tolist()
            skipped = self._update(loss, gradient_norm, learning_rate)
            self._release_gradients()
            self._average_buffers()
        return StepMetrics(loss, labels, gradient_norm, skipped)

    def _update(self, loss: float, gradient_norm: float, learning_rate: float) -> bool:
        """Updates the parameters, unless the numbers are not finite; True if a smaller loss scale may mend that."""
        if not math.isfinite(loss):
            return False
        if not math.isfinite(gradient_norm):
            return self._loss_scale.overflowed()
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._loss_scale.succeeded()
        return False

    def _unscale(self) -> None:
        if self._loss_scale.value != 1.0:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self._loss_scale.value)

    def probe(self, batches: Sequence[Batch]) -> None:
        # The copy is kept off the device, whose memory is what is measured.
        before = [{name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()} for tensors in self._state()]
        loss_scale = self._loss_scale.state()
        try:
            for _ in range(2):
                self.step(batches, learning_rate=0.0)
        finally:
            self._release_gradients()
            self._load(*before)
            self._loss_scale.load(loss_scale)

    def state(self) -> EngineState:
        """The state now, in the first process with the random states of all; collective.

        Raises:
            TrainingError: the processes do not have the same parameters any more.
        """
        model, optimizer, random = self._state()
        self._processes.require_equal({name: tensor for tensor, name in self._names.items()})
        by_rank = self._processes.gather(random)
        kept = {_random_name(rank, name): value for rank, of in enumerate(by_rank) for name, value in of.items()}
        scale = {f"{_LOSS_SCALE}{name}": value for name, value in self._loss_scale.state().items()}
        return EngineState(model, {**optimizer, **kept, **scale})

    def load(self, state: EngineState) -> None:
        """Continues from the first process's `state`; collective.

        A process whose random states are not in it, because fewer ran then, draws new ones that depend on the state.
        """
        model, optimizer = map(self._processes.broadcast_tensors, state)
        moments = {name: value for name, value in optimizer.items() if not name.startswith((_RNG, _LOSS_SCALE))}
        scale = {name: value for name, value in optimizer.items() if name.startswith(_LOSS_SCALE)}
        self._loss_scale.load({name.removeprefix(_LOSS_SCALE): value for name, value in scale.items()})
        states = {name: value for name, value in optimizer.items() if name.startswith(_RNG)}
        first = {name.removeprefix(_RNG): value for name, value in states.items() if name.count("/") == 1}
        mine = {name: states.get(_random_name(self._processes.rank, name)) for name in first}
        found = {name: value for name, value in mine.items() if value is not None}
        self._load(model, moments, found if len(found) == len(first) else {})
        if len(found) != len(first):
            self._draw_random_states(first)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Of this process: parameters and buffers, moments, random states."""
        model = {name: tensor.detach() for name, tensor in named_tensors(self._model).items()}
        return model, optimizer_state(self._optimizer, self._names), self._random_states()

    def _load(self, model: dict[str, Tensor], moments: dict[str, Tensor], random: dict[str, Tensor]) -> None:
        load_parameters(self._model, model)
        load_optimizer_state(self._optimizer, self._names, moments)
        if random:
            self._set_random_states(random)

    def _random_states(self) -> dict[str, Tensor]:
        """The states of the random generators that a step draws from, by names without a slash."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_random_states(self, states: dict[str, Tensor]) -> None:
        """Takes back what `_random_states` gave, perhaps on a machine with another device."""
        torch.set_rng_state(states["cpu"].cpu())
        if "cuda" in states and self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"].cpu(), self.device)

    def _draw_random_states(self, first: dict[str, Tensor]) -> None:
        """Random states of its own for a process of which `first`, the first process's, know nothing."""
        content = b"".join(first[name].cpu().numpy().tobytes() for name in sorted(first))
        torch.manual_seed(derived_seed(content, self._processes.rank))

    def _clear_gradients(self) -> None:
        """Before a step: no gradients, or fixed ones of zero."""
        if self._buckets is not None:
            self._buckets.clear()

    def _release_gradients(self) -> None:
        """After a step: gives the memory back, unless it is fixed."""
        if self._buckets is None:
            self._optimizer.zero_grad(set_to_none=True)

    def _add_up(self, summed: Tensor) -> Tensor:
        """Adds up the gradients, in place, and `summed` over all processes; returns its sum."""
        if self._processes.world_size == 1:
            return summed
        assert self._buckets is not None
        self._buckets.extra.copy_(summed)
        self._processes.add_up(self._buckets.buffers)
        return self._buckets.extra

    def _average_buffers(self) -> None:
        """Makes what a step changed in buffers, as batch normalization its running means, the same everywhere."""
        if self._processes.world_size == 1 or not self._shared_buffers:
            return
        # In float64, where the mean of equal numbers is the number.
        means = torch.cat([buffer.flatten().double() for buffer in self._shared_buffers])
        self._processes.add_up([means])
        means /= self._processes.world_size
        parts = torch.split(means, [buffer.numel() for buffer in self._shared_buffers])
        for buffer, part in zip(self._shared_buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    def _clip(self) -> Tensor:
        """Clips the gradients' global norm (Pascanu et al. 2013); returns the norm before."""
        largest = self._hparams.clip_grad_norm
        if largest is not None:
            return torch.nn.utils.clip_grad_norm_(self._parameters, largest)
        return torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])


def default_device() -> torch.device:
    """CUDA if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def derived_seed(content: bytes, rank: int) -> int:
    """A seed for process `rank`, as good as independent of those of other ranks and contents."""
    digest = hashlib.sha256(content + rank.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits


def _random_name(rank: int, name: str) -> str:
    """`rng/cpu` for the first process, `rng/3/cpu` for another."""
    return f"{_RNG}{name}" if rank == 0 else f"{_RNG}{rank}/{name}"


def size_of(model: Model, batches: Sequence[Batch]) -> str:
    """The size of a step's first batch in words, for messages: its target tokens, or its largest input."""
    if not batches:
        return "no examples"
    name, what = model.target, "target tokens"
    if not model.autoregressive:
        name = max(batches[0], key=lambda name: batches[0][name].size)
        what = f"{'tokens' if model.features[name].modality is Modality.SYMBOL else 'numbers'} of '{name}'"
    return " × ".join(map(str, batches[0][name].shape)) + f" {what}"


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
