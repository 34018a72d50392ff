"""Searches as NVIDIA Triton's onnxruntime backend wants them.

Triton puts the requests that it batches one behind the other, and gives every input and output a batch axis. Sources of
different lengths share a batch as a ragged input: they arrive in one row, with a second tensor, made by Triton, that
tells their lengths.

    batched:  source_ids [tokens], source_lengths [batch, 1] int32     -> the outputs of the search
    single:   source_ids [batch, source_length]                        -> the outputs of the search

Options stay inputs with defaults. A model for batches has none of them in its configuration, for scalars have no batch
axis, so that no request can change them. As constants they would not do: onnxruntime would then know the number of
hypotheses, and Triton refuses a graph whose output has a size where the configuration says -1.

In both, a target may be `extra_length` tokens longer than the ids of its source that are not PAD.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.export.nodes import Nodes, around, gather_rows, option_defaults, option_inputs
from t2tdeploy.features import PAD_ID


def batched_search(search: ModelProto, decode: DecodeDefaults, num_hypotheses: int) -> ModelProto:
    """A search over ragged sources, decoded with these options.

    Raises:
        OperationalError: an option of the search has no default.
    """
    nodes = Nodes("rows")
    sizes = nodes.op("Squeeze", nodes.op("Cast", "source_lengths", to=TensorProto.INT64), [1])
    starts = nodes.op("CumSum", sizes, 0, exclusive=1)
    gather_rows(nodes, "source_ids", starts, sizes, end=None, output="search/source_ids")
    _limit(nodes, "search/source_ids")
    info = helper.make_tensor_value_info
    return around(
        search,
        before=nodes,
        inputs=[
            info("source_ids", TensorProto.INT64, ["tokens"]),
            info("source_lengths", TensorProto.INT32, ["batch", 1]),
            *_options(search),
        ],
        outputs=search.graph.output,
        defaults=option_defaults(search, decode, num_hypotheses),
        names={"source_ids": "search/source_ids"},
    )


def single_search(search: ModelProto, decode: DecodeDefaults, num_hypotheses: int) -> ModelProto:
    """A search that takes its options from the request.

    Raises:
        OperationalError: an option of the search has no default.
    """
    nodes = Nodes("rows")
    _limit(nodes, "source_ids")
    info = helper.make_tensor_value_info
    return around(
        search,
        before=nodes,
        inputs=[
            info("source_ids", TensorProto.INT64, ["batch", "source_length"]),
            *_options(search),
        ],
        outputs=search.graph.output,
        defaults=option_defaults(search, decode, num_hypotheses),
        names={},
    )


def _options(search: ModelProto) -> list[ValueInfoProto]:
    return [*option_inputs(search), helper.make_tensor_value_info("extra_length", TensorProto.INT64, [])]


def _limit(nodes: Nodes, source_ids: str) -> None:
    """source_ids [batch, source_length] -> max_length [batch]"""
    real = nodes.op("Cast", nodes.op("Not", nodes.op("Equal", source_ids, [PAD_ID])), to=TensorProto.INT64)
    nodes.op("Add", nodes.op("ReduceSum", real, [1], keepdims=0), "extra_length", output="max_length")
