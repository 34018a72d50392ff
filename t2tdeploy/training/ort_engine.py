"""The engine that runs forward, loss and backward as one ONNX graph; torch keeps parameters and update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import onnx
import torch
from torch import Tensor

from t2tdeploy.errors import UserError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.training.dropout_masks import DropoutMasks
from t2tdeploy.training.engine import Batch, EvaluationSums
from t2tdeploy.training.gradient_engine import GradientEngine, default_device, derived_seed, memory_errors, size_of
from t2tdeploy.training.graph.environment import choose_provider
from t2tdeploy.training.graph.manifest import CORRECT, DENOMINATOR, LOGITS, LOSS_SCALE, NUMERATOR, axes_of
from t2tdeploy.training.graph.runner import GraphRunner
from t2tdeploy.training.graph.training_graph import TrainingGraph
from t2tdeploy.training.parameters import tensors_from
from t2tdeploy.training.processes import ALONE, Processes

_MASKS = "masks"


def require_support(hparams: HParams, device: torch.device | None) -> None:
    """Checks that onnxruntime can compute what is asked on `device` (None: the default one).

    Raises:
        UserError: it cannot, but the torch engine can.
        OperationalError: onnxruntime does not work there.
    """
    choose_provider((device or default_device()).type)
    if hparams.precision == "bfloat16" and (device or default_device()).type == "cpu":
        raise UserError(
            "precision = bfloat16 of engine ort needs a CUDA GPU; onnxruntime has no bfloat16 on CPUs",
            help="--hparams precision=float32, or --engine torch",
        )
    if hparams.compile:
        raise UserError("compile is of engine torch", help="--hparams compile=false, or --engine torch")


class OrtEngine(GradientEngine):
    """An `Engine` on a `TrainingGraph`; the other arguments are those of `GradientEngine`.

    Parameters, gradients and buffers are bound to the graph by address. Dropout masks come from a generator of the
    engine's own, so that a resumed run goes on as the uninterrupted one would have.

    Args:
        graph: of this model.
    """

    fixed_gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: Model,
        hparams: HParams,
        graph: TrainingGraph,
        *,
        device: torch.device | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(model, hparams, device=device, processes=processes)
        manifest = graph.manifest
        tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._features = manifest.features
        self._masks = DropoutMasks(manifest.masks, device=self.device)
        self._scale = torch.ones((), device=self.device)
        self._sums = {name: torch.zeros((), device=self.device) for name in (NUMERATOR, DENOMINATOR)}
        self._gradients = {spec.name: _gradient(tensors[spec.name]) for spec in manifest.parameters}
        self._more_gradients: dict[str, Tensor] | None = None  # of the second and later batches of a step
        self._changed = {name: tensors[name] for name in manifest.changed}
        self._new = {name: torch.empty_like(tensor) for name, tensor in self._changed.items()}
        self._training = self._runner(graph.training, tensors)
        self._training.bind_inputs({LOSS_SCALE: self._scale})
        self._training.bind_outputs({**self._sums, **{f"{name}.new": tensor for name, tensor in self._new.items()}})
        self._evaluation = self._runner(graph.evaluation, tensors)
        self._found = {
            NUMERATOR: torch.zeros((), device=self.device),
            DENOMINATOR: torch.zeros((), device=self.device),
            CORRECT: torch.zeros((), dtype=torch.int64, device=self.device),
        }
        self._evaluation.bind_outputs(self._found)

    def evaluate(self, batch: Batch) -> EvaluationSums:
        self._model.eval()
        logits: Tensor | None = None
        with memory_errors(size_of(self._model, [batch])):
            tensors = tensors_from(batch, self.device)
            self._evaluation.bind_inputs(tensors)
            if not self._model.autoregressive:
                rows = len(batch[self._model.target])
                logits = torch.empty(rows, *self._model.output_shape, device=self.device)
                self._evaluation.bind_outputs({LOGITS: logits})
            self._evaluation.run()
        found = {name: tensor.item() for name, tensor in self._found.items()}
        sums = found[NUMERATOR], int(found[DENOMINATOR]), int(found[CORRECT])
        return EvaluationSums(*sums, None if logits is None else logits.cpu().numpy())

    def _accumulate(self, batches: Sequence[Batch], labels: int, loss_scale: float) -> Tensor:
        if not batches:
            super()._clear_gradients()
        self._scale.fill_(loss_scale / labels)
        summed = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            into = self._gradients if number == 0 else self._spare_gradients()
            summed += self._run(batch, into)
            if number > 0:
                torch._foreach_add_(list(self._gradients.values()), list(into.values()))
        return summed

    def _run(self, batch: Batch, into: Mapping[str, Tensor]) -> Tensor:
        """The gradients of one batch, written over `into`; returns its summed loss."""
        tensors = tensors_from(batch, self.device)
        axes = axes_of(self._features, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self._training.bind_inputs({**tensors, **self._masks.draw(axes)})
        self._training.bind_outputs({f"{name}.grad": gradient for name, gradient in into.items()})
        self._training.run()
        for name, buffer in self._changed.items():
            buffer.copy_(self._new[name])
        return self._sums[NUMERATOR]

    def _spare_gradients(self) -> dict[str, Tensor]:
        if self._more_gradients is None:
            self._more_gradients = {name: torch.empty_like(tensor) for name, tensor in self._gradients.items()}
        return self._more_gradients

    def _clear_gradients(self) -> None:
        """Nothing: the first batch of a step writes over them."""

    def _random_states(self) -> dict[str, Tensor]:
        return {**super()._random_states(), _MASKS: self._masks.state()}

    def _set_random_states(self, states: dict[str, Tensor]) -> None:
        super()._set_random_states(states)
        if _MASKS in states:
            self._masks.set_state(states[_MASKS])
        else:  # of another engine
            self._masks.seed(derived_seed(states["cpu"].numpy().tobytes(), 0))

    def _draw_random_states(self, first: dict[str, Tensor]) -> None:
        super()._draw_random_states(first)
        self._masks.seed(torch.initial_seed())

    def _runner(self, model: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> GraphRunner:
        runner = GraphRunner(model, device=self.device, threads=torch.get_num_threads())
        runner.bind_inputs({name: tensors[name].detach() for name in runner.inputs if name in tensors})
        return runner


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # fixed_gradients
    return parameter.grad
