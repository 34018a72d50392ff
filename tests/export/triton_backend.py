"""What Triton and its onnxruntime backend do with a model repository, as far as it concerns ours.

After triton-inference-server: core/src/model_config_utils.cc (what a configuration may say), onnxruntime_backend/src/
onnxruntime.cc (ValidateInputs, ValidateOutputs, SetInputTensors), backend/src/backend_input_collector.cc (ragged inputs
and batch inputs), backend_output_responder.cc (how results find their way back).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import deserialize_bytes_tensor

from t2tdeploy.export.text_bundle import extensions_library

Request = Mapping[str, np.ndarray]
Response = dict[str, np.ndarray]

DTYPES: dict[str, tuple[str, Any]] = {
    "TYPE_INT64": ("tensor(int64)", np.int64),
    "TYPE_INT32": ("tensor(int32)", np.int32),
    "TYPE_FP32": ("tensor(float)", np.float32),
    "TYPE_BOOL": ("tensor(bool)", np.bool_),
    "TYPE_STRING": ("tensor(string)", object),
}


class Refused(Exception):  # noqa: N818  Triton's word
    """Triton would not load the model, or would not take the request."""


def require(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


@dataclass
class TritonModel:
    """A loaded model of a repository."""

    folder: Path

    def __post_init__(self) -> None:
        text = (self.folder / "config.pbtxt").read_text(encoding="utf-8")
        self.config = text_format.Parse(text, model_config_pb2.ModelConfig())
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        if self.config.model_operations.op_library_filename:
            options.register_custom_ops_library(extensions_library())
        file = self.folder / "1" / self.config.default_model_filename
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.batched = self.config.max_batch_size > 0
        self._check_config()
        self._check_inputs()
        self._check_outputs()

    def _check_config(self) -> None:
        require(self.config.name == self.folder.name, "the name is not that of the folder")
        for tensor in (*self.config.input, *self.config.output):
            require(tensor.dims, f"{tensor.name}: must specify 'dims'")
            require(all(dim > 0 or dim == -1 for dim in tensor.dims), f"{tensor.name}: dims")
            if tensor.HasField("reshape"):
                require(self.batched or tensor.reshape.shape, f"{tensor.name}: empty reshape without batching")
                require(prod(tensor.dims) == prod(tensor.reshape.shape), f"{tensor.name}: reshape to another size")
        sizes = self.config.dynamic_batching.preferred_batch_size
        require(all(0 < size <= self.config.max_batch_size for size in sizes), "preferred_batch_size")
        require(self.batched or not self.config.HasField("dynamic_batching"), "dynamic batching without batches")

    def _check_inputs(self) -> None:
        needed = self.session.get_inputs()  # without those that have a default
        optional = [tensor for tensor in self.config.input if tensor.optional]
        require(not (self.batched and optional), "optional input is not supported for models that support batching")
        expected = len(self.config.input) - len(optional) + len(self.config.batch_input)
        require(expected == len(needed), f"configuration expects {expected} inputs, model provides {len(needed)}")
        nodes = {node.name: node for node in (*needed, *self.session.get_overridable_initializers())}
        for tensor in self.config.input:
            require(tensor.name in nodes, f"unexpected input {tensor.name}")
            if tensor.allow_ragged_batch:
                require(len(nodes[tensor.name].shape) == 1, "ragged input: the model must have shape [-1]")
                require(nodes[tensor.name].type == self._dtype(tensor)[0], f"{tensor.name}: data type")
            else:
                self._check_tensor(tensor, nodes[tensor.name], exact=False)
        for batch_input in self.config.batch_input:
            require(set(batch_input.target_name) <= set(nodes), "batch_input: the model has no such input")

    def _check_outputs(self) -> None:
        nodes = {node.name: node for node in self.session.get_outputs()}
        for tensor in self.config.output:
            require(tensor.name in nodes, f"unexpected output {tensor.name}")
            self._check_tensor(tensor, nodes[tensor.name], exact=True)

    def _check_tensor(self, tensor: Any, node: Any, *, exact: bool) -> None:
        require(node.type == self._dtype(tensor)[0], f"{tensor.name}: data type {node.type}")
        model = [dim if isinstance(dim, int) else -1 for dim in node.shape]
        dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        if not model:
            require(not self.batched and set(dims) == {1}, f"{tensor.name}: a scalar")
            return
        if self.batched:
            require(model[0] == -1, f"{tensor.name}: the first dimension must be -1")
            dims = [-1, *dims]
        require(len(dims) == len(model), f"{tensor.name}: {dims} for {model}")
        same = all(ours == theirs or (theirs == -1 and not exact) for ours, theirs in zip(dims, model, strict=True))
        require(same, f"{tensor.name}: {dims} for {model}")

    @staticmethod
    def _dtype(tensor: Any) -> tuple[str, Any]:
        return DTYPES[model_config_pb2.DataType.Name(tensor.data_type)]

    def run(self, requests: Sequence[Request]) -> list[Response]:
        """The responses to requests that are batched together."""
        sizes = [self._check_request(request) for request in requests]
        require(self.batched or len(requests) == 1, "requests are not batched")
        require(not self.batched or sum(sizes) <= self.config.max_batch_size, "the batch is too large")
        feeds: dict[str, np.ndarray] = {}
        for tensor in self.config.input:
            if tensor.name in requests[0]:
                feeds[tensor.name] = self._gather(tensor, [request[tensor.name] for request in requests])
        for batch_input in self.config.batch_input:
            require(batch_input.kind == batch_input.BATCH_ITEM_SHAPE, "another kind of batch_input")
            (source,) = batch_input.source_input
            shapes = [request[source].shape for request in requests]
            items = [shape[1:] for shape in shapes for _ in range(shape[0])]
            feeds[batch_input.target_name[0]] = np.array(items, self._dtype(batch_input)[1])
        names = [tensor.name for tensor in self.config.output]
        found = dict(zip(names, self.session.run(names, feeds), strict=True))
        responses: list[Response] = [{} for _ in requests]
        for tensor in self.config.output:
            ends = np.cumsum(sizes)[:-1] if self.batched else []
            for response, part in zip(responses, np.split(found[tensor.name], ends), strict=True):
                shape = [len(part), *tensor.dims] if tensor.HasField("reshape") else part.shape
                response[tensor.name] = part.reshape(shape)
        return responses

    def _check_request(self, request: Request) -> int:
        """Its number of rows."""
        known = {tensor.name: tensor for tensor in self.config.input}
        require(set(request) <= set(known), "unexpected inference input")
        missing = {name for name, tensor in known.items() if not tensor.optional} - set(request)
        require(not missing, f"expected inputs {missing}")
        for name, array in request.items():
            require(array.dtype == self._dtype(known[name])[1], f"{name}: data type {array.dtype}")
            shape = array.shape[1:] if self.batched else array.shape
            dims = known[name].dims
            fits = len(shape) == len(dims) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
            require(fits, f"{name}: unexpected shape {array.shape} for {dims}")
        rows = {len(array) for array in request.values()} if self.batched else {1}
        require(len(rows) == 1, "inputs have different batch sizes")
        return rows.pop()

    def _gather(self, tensor: Any, arrays: Sequence[np.ndarray]) -> np.ndarray:
        if tensor.allow_ragged_batch:
            return np.concatenate([array.reshape(-1) for array in arrays])
        require(len({array.shape[1:] for array in arrays}) == 1, "requests of different shapes are not batched")
        joined = np.concatenate(arrays) if self.batched else arrays[0]
        if tensor.HasField("reshape"):
            return joined.reshape([len(joined), *tensor.reshape.shape])
        scalar = [node for node in self.session.get_overridable_initializers() if node.name == tensor.name]
        return joined.reshape([]) if scalar and not scalar[0].shape else joined

    def warm_up(self) -> None:
        """Runs the warm-up requests of the configuration."""
        for sample in self.config.model_warmup:
            request = {}
            for name, value in sample.inputs.items():
                content = (self.folder / "warmup" / value.input_data_file).read_bytes()
                kind = self._dtype(value)[1]
                array = deserialize_bytes_tensor(content) if kind is object else np.frombuffer(content, kind)
                request[name] = array.reshape([1, *value.dims] if self.batched else list(value.dims))
            self.run([request] * sample.batch_size)
