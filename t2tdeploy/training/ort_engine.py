"""The engine that runs forward, loss and backward as one ONNX graph; torch keeps parameters and update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import ClassVar

import onnx
import torch
from torch import Tensor

from t2tdeploy.errors import UserError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.training.engine import Batch, EvaluationSums
from t2tdeploy.training.gradient_engine import GradientEngine, default_device, derived_seed, memory_errors, size_of
from t2tdeploy.training.graph.environment import choose_provider
from t2tdeploy.training.graph.manifest import CORRECT, DENOMINATOR, LOGITS, NUMERATOR
from t2tdeploy.training.graph.runner import GraphRunner, require_element_type
from t2tdeploy.training.graph.step import constant_buffers
from t2tdeploy.training.graph.training_graph import TrainingGraph
from t2tdeploy.training.lanes import Lane, divided, shares_of
from t2tdeploy.training.parameters import tensors_from
from t2tdeploy.training.processes import ALONE, Processes

_MASKS = "masks"


def require_element_types(model: Model) -> None:
    """
    Raises:
        UserError: a parameter or buffer that a graph of the model would not keep inside is of other numbers than it
            can read.
    """
    kept = constant_buffers(model)
    for name, tensor in _tensors(model).items():
        if name not in kept:
            require_element_type(name, tensor)


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

    Parameters, gradients and buffers are bound to the graph by address. Dropout masks come from generators of the
    engine's own, so that a resumed run goes on as the uninterrupted one would have. On a CPU, two parts of a batch are
    computed at once if the model's `independent_rows` says that it may be, see lanes.py.

    Args:
        graph: of this model.

    Raises:
        UserError: a parameter or buffer is of numbers, or in an order of memory, that a graph cannot have.
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
        tensors = _tensors(model)
        _make_contiguous(tensors)
        self._scale = torch.ones((), device=self.device)
        self._gradients = {spec.name: _gradient(tensors[spec.name]) for spec in manifest.parameters}
        self._spare: dict[int, dict[str, Tensor]] = {}  # lane -> gradients that are added to the others
        self._changed = {name: tensors[name] for name in manifest.changed}
        self._new = {name: torch.empty_like(tensor) for name, tensor in self._changed.items()}
        threads = torch.get_num_threads()
        divides = vars(type(model)).get("independent_rows", False) and not self._changed
        self._shares = shares_of(threads) if divides and threads > 1 and self.device.type == "cpu" else [threads]
        self._lanes = [
            Lane(self._runner(graph.training, tensors, share), manifest, self._scale, self.device)
            for share in self._shares
        ]
        self._lanes[0].bind_outputs({f"{name}.new": tensor for name, tensor in self._new.items()})
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="t2tdeploy-lane")
        self._evaluation = self._runner(graph.evaluation, tensors, threads)
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
            parts = [batch] if len(self._lanes) == 1 else divided(batch, self._shares)
            into = [
                self._gradients if number == lane == 0 else self._spare_gradients(lane) for lane in range(len(parts))
            ]
            summed += self._run(parts, into)
            for gradients in into:
                if gradients is not self._gradients:
                    torch._foreach_add_(list(self._gradients.values()), list(gradients.values()))
        return summed

    def _run(self, parts: Sequence[Batch], into: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The gradients of each part of a batch, written over its own of `into`; returns the summed loss of all."""
        jobs = zip(self._lanes[1:], parts[1:], into[1:], strict=False)
        others = [self._pool.submit(lane.run, part, gradients) for lane, part, gradients in jobs]
        try:
            summed = self._lanes[0].run(parts[0], into[0]).clone()
        finally:
            wait(others)  # whatever happens, nobody writes any more when this returns
        for other in others:
            summed += other.result()
        for name, buffer in self._changed.items():
            buffer.copy_(self._new[name])
        return summed

    def _spare_gradients(self, lane: int) -> dict[str, Tensor]:
        if lane not in self._spare:
            self._spare[lane] = {name: torch.empty_like(tensor) for name, tensor in self._gradients.items()}
        return self._spare[lane]

    def _clear_gradients(self) -> None:
        """Nothing: the first batch of a step writes over them."""

    def _random_states(self) -> dict[str, Tensor]:
        return {**super()._random_states(), **{name: lane.masks.state() for name, lane in self._named_lanes()}}

    def _set_random_states(self, states: dict[str, Tensor]) -> None:
        super()._set_random_states(states)
        for number, (name, lane) in enumerate(self._named_lanes()):
            if name in states:
                lane.masks.set_state(states[name])
            else:  # of another engine, or of one with fewer threads
                known = states.get(_MASKS, states["cpu"])
                lane.masks.seed(derived_seed(known.numpy().tobytes(), number))

    def _draw_random_states(self, first: dict[str, Tensor]) -> None:
        super()._draw_random_states(first)
        for number, (_, lane) in enumerate(self._named_lanes()):
            lane.masks.seed(torch.initial_seed() + number)

    def _named_lanes(self) -> list[tuple[str, Lane]]:
        return [(f"{_MASKS}{number or ''}", lane) for number, lane in enumerate(self._lanes)]

    def _runner(self, model: onnx.ModelProto, tensors: Mapping[str, Tensor], threads: int) -> GraphRunner:
        runner = GraphRunner(model, device=self.device, threads=threads)
        runner.bind_inputs({name: tensors[name].detach() for name in runner.inputs if name in tensors})
        return runner


def _tensors(model: Model) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _make_contiguous(tensors: Mapping[str, Tensor]) -> None:
    """Gives parameters and buffers that lie in another order memory in that of graphs; they stay the same objects.

    Raises:
        UserError: such a one shares its memory with another one, and would not any more.
    """
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if tensor.is_contiguous():
            continue
        if owners[tensor.untyped_storage().data_ptr()] > 1:
            raise UserError(
                f"'{name}' of the model is a view of another parameter or buffer, in another order of memory",
                help="compute it from the other one where it is used, or train with --engine torch",
            )
        tensor.data = tensor.data.contiguous()


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # fixed_gradients
    return parameter.grad
