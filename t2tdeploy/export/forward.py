"""The pieces of a search as ONNX graphs: the encoder, one step of the decoder with the beam update, the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx.inliner
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.export.quiet import quiet_exporter
from t2tdeploy.export.reshapes import simplify_reshapes
from t2tdeploy.export.undecomposed import to_onnx
from t2tdeploy.models.model import Model
from t2tdeploy.models.search import BeamState, BeamStep, SearchResult, initial_state, results

OPSET_VERSION = 18
IR_VERSION = 10  # the newest that onnxruntime 1.19 reads

# Example sizes, all different and above 1, so that tracing keeps every axis symbolic.
_BATCH, _BEAM, _SOURCE_LENGTH, _TARGET_LENGTH = 3, 5, 11, 7


@dataclass(frozen=True)
class SearchPieces:
    """The graphs to assemble, with the names of the tensors that cross between them.

    Args:
        encoder: source_ids -> memory.
        step: state, max_length, alpha, num_hypotheses, memory, model state -> go_on and the next state.
        results: state, max_length -> all beams' hypotheses.
        memory: names of the encoder's outputs, which the step reads.
        carried: names of the step's state inputs; its outputs are `go_on` and NAME_next for each.
        carried_axes: their axes; `target_length` is 0 before the first step.
    """

    encoder: onnx.ModelProto
    step: onnx.ModelProto
    results: onnx.ModelProto
    memory: tuple[str, ...]
    carried: tuple[str, ...]
    carried_axes: tuple[tuple[str | int, ...], ...]


class _Encoder(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_ids: Tensor) -> tuple[Tensor, ...]:
        return self.model.encode(source_ids)


class _Step(nn.Module):
    """BeamStep with the Loop's condition in front of its results."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.beam_step = BeamStep(model)

    def forward(
        self,
        state: list[Tensor],
        max_length: Tensor,
        alpha: Tensor,
        num_hypotheses: Tensor,
        memory: list[Tensor],
        model_state: list[Tensor],
    ) -> tuple[Tensor, ...]:
        new, new_model_state = self.beam_step(BeamState(*state), max_length, alpha, num_hypotheses, memory, model_state)
        return (~new.decided.all(), *new, *new_model_state)


class _Results(nn.Module):
    def forward(self, state: list[Tensor], max_length: Tensor) -> tuple[Tensor, ...]:
        return tuple(results(BeamState(*state), max_length))


BEAM_STATE_AXES: dict[str, tuple[str | int, ...]] = {
    "step": (),
    "tokens": ("batch", "beam"),
    "alive_scores": ("batch", "beam"),
    "alive_ids": ("batch", "beam", "target_length"),
    "finished_scores": ("batch", "beam"),
    "finished_ids": ("batch", "beam", "target_length"),
    "finished_lengths": ("batch", "beam"),
    "decided": ("batch",),
    "ancestors": ("batch", "beam", "history"),
}


def export_pieces(model: Model) -> SearchPieces:
    """Traces the model's `encode` and the beam step around its `decode_step`.

    Raises:
        torch.onnx.OnnxExporterError: the model has an operator that ONNX cannot express.
    """
    model.eval()
    memory_axes, state_axes = model.memory_axes(), model.state_axes()
    source_ids = torch.randint(3, 50, (_BATCH, _SOURCE_LENGTH)) % next(iter(model.features.values())).vocab_size
    with torch.no_grad():
        memory = [tensor.contiguous() for tensor in model.encode(source_ids)]  # strides would be traced
    state = _example_state()
    model_state = [_example_like(tensor, axes) for tensor, axes in zip(
        model.initial_state(_BATCH, _BEAM, source_ids.device), state_axes.values(), strict=True)]  # fmt: skip
    carried = (*(f"beam_{name}" for name in BeamState._fields), *state_axes)
    limits = (torch.full((_BATCH,), 40), torch.tensor(0.6), torch.tensor(2))
    encoder = _export(_Encoder(model), (source_ids,), ["source_ids"], list(memory_axes), ({0: Dim.AUTO, 1: Dim.AUTO},))
    step = _export(
        _Step(model),
        (list(state), *limits, memory, model_state),
        [*carried[: len(state)], "max_length", "alpha", "num_hypotheses", *memory_axes, *state_axes],
        ["go_on", *(f"{name}_next" for name in carried)],
        (
            [_dynamic(tensor) for tensor in state],
            {0: Dim.AUTO},
            None,
            None,
            [_symbolic(axes) for axes in memory_axes.values()],
            [_symbolic(axes) for axes in state_axes.values()],
        ),
    )
    chosen = _export(
        _Results(),
        (list(state), limits[0]),
        [*carried[: len(state)], "max_length"],
        [f"all_{name}" for name in SearchResult._fields],
        ([_dynamic(tensor) for tensor in state], {0: Dim.AUTO}),
    )
    return SearchPieces(
        encoder, step, chosen, tuple(memory_axes), carried, (*BEAM_STATE_AXES.values(), *state_axes.values())
    )


def _example_state() -> BeamState:
    start = initial_state(_BATCH, _BEAM, torch.device("cpu"))
    ids = torch.full((_BATCH, _BEAM, _TARGET_LENGTH), 3)
    return start._replace(
        step=torch.tensor(_TARGET_LENGTH),
        alive_ids=ids,
        finished_ids=ids.clone(),
        finished_scores=start.alive_scores - 1,
        ancestors=torch.ones(_BATCH, _BEAM, _TARGET_LENGTH * _BEAM, dtype=torch.bool),
    )


def _example_like(tensor: Tensor, axes: Sequence[str | int]) -> Tensor:
    """A tensor like an initial state's, some steps later."""
    grown: dict[str | int, int] = {"target_length": _TARGET_LENGTH, "history": _TARGET_LENGTH * _BEAM}
    return torch.ones(
        [grown.get(axis, size) for axis, size in zip(axes, tensor.shape, strict=True)], dtype=tensor.dtype
    )


def _dynamic(tensor: Tensor) -> dict[int, object] | None:
    return dict.fromkeys(range(tensor.dim()), Dim.AUTO) or None


def _symbolic(axes: Sequence[str | int]) -> dict[int, object]:
    return {i: Dim.AUTO for i, axis in enumerate(axes) if isinstance(axis, str)}


def _export(
    module: nn.Module, args: tuple[object, ...], inputs: list[str], outputs: list[str], shapes: tuple[object, ...]
) -> onnx.ModelProto:
    with quiet_exporter():
        program = to_onnx(
            module.eval(), args, dynamic_shapes=shapes, inputs=inputs, outputs=outputs, opset=OPSET_VERSION
        )
    simplify_reshapes(program.model)
    return onnx.inliner.inline_local_functions(program.model_proto)
