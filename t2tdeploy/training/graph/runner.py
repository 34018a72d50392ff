"""Runs one graph on torch's memory: inputs and outputs are bound by address, nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from t2tdeploy.errors import OperationalError, UserError
from t2tdeploy.runtime import import_onnxruntime

_ELEMENT_TYPES = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}

_INSTEAD = "train with --engine torch, which needs no graph"


def require_element_type(name: str, tensor: Tensor) -> None:
    """
    Raises:
        UserError: a graph cannot read or write a tensor of such numbers.
    """
    if tensor.dtype not in _ELEMENT_TYPES:
        known = ", ".join(_name_of(dtype) for dtype in _ELEMENT_TYPES)
        raise UserError(
            f"'{name}' of the model is {_name_of(tensor.dtype)}; engine ort has parameters and buffers of {known}",
            help="make it one of these, or train with --engine torch",
        )


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class GraphRunner:
    """A graph in onnxruntime, its inputs and outputs in tensors of one device.

    Args:
        model: the graph.
        device: where all bound tensors lie, and the graph runs.
        threads: on a CPU.

    Raises:
        OperationalError: onnxruntime cannot load the graph (its own words).
    """

    def __init__(self, model: onnx.ModelProto, *, device: torch.device, threads: int) -> None:
        onnxruntime = import_onnxruntime()
        self._device = device
        if device.type != "cpu":
            # CUDA kernels warn of what is meant, and past the session's logger.
            onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Buckets have many shapes: a plan of memory for each would be kept for good.
        options.enable_mem_pattern = False
        # Between two runs torch has the CPUs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=_providers(device)
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise OperationalError(
                f"onnxruntime cannot load the training graph{_hint(model)}: {error}", help=_INSTEAD
            ) from error
        self._binding = self._session.io_binding()
        self._run_options = onnxruntime.RunOptions()
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def bind_inputs(self, tensors: Mapping[str, Tensor]) -> None:
        """Reads these tensors from now on: contiguous, on the device, kept alive by the caller.

        Raises:
            UserError: see `require_element_type`.
        """
        for name, tensor in tensors.items():
            self._binding.bind_input(name, *self._address(name, tensor))

    def bind_outputs(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes into these tensors from now on, whose shapes must be those of the results."""
        for name, tensor in tensors.items():
            self._binding.bind_output(name, *self._address(name, tensor))

    def run(self) -> None:
        """Computes; everything must be bound.

        On a GPU onnxruntime has a stream of its own, which waits for nothing that torch has queued: so this waits, for
        torch before and for onnxruntime after. To give onnxruntime a stream of torch's does not help: it takes the
        default one, whose address is 0, for none, and with another one results were wrong now and then on a busy GPU.

        Raises:
            MemoryError: memory ran out.
            OperationalError: onnxruntime failed (its own words).
        """
        if self._device.type != "cpu":
            torch.cuda.synchronize(self._device)
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
            if self._device.type != "cpu":
                torch.cuda.synchronize(self._device)
        except Exception as error:  # onnxruntime's exceptions share no base class
            if _is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise OperationalError(f"onnxruntime failed to run the training graph: {error}", help=_INSTEAD) from error

    def _address(self, name: str, tensor: Tensor) -> tuple[str, int, Any, Sequence[int], int]:
        assert tensor.is_contiguous()
        require_element_type(name, tensor)
        index = self._device.index or 0
        return self._device.type, index, _ELEMENT_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()


def _hint(model: onnx.ModelProto) -> str:
    """What of a graph may be why it cannot be loaded."""
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    return ", part of which is in bfloat16, as within torch.autocast" if onnx.TensorProto.BFLOAT16 in types else ""


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    cuda = {"device_id": device.index or 0, "arena_extend_strategy": "kSameAsRequested"}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return "bad_alloc" in text or "Failed to allocate memory" in text or "out of memory" in text
