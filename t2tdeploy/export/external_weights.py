"""Weights in a file of their own, which several graphs read: the disk holds them once. ONNX calls it external data."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, TensorProto

ALIGNMENT = 4096  # bytes; ONNX asks for pages, so that weights can be mapped into memory
SMALL = 1024  # bytes; smaller tensors stay in the graph


def move_weights(models: Sequence[ModelProto], location: str) -> bytes:
    """Replaces the large initializers of `models` by references into one file, where equal ones are stored once.

    Args:
        location: the file's name, in the folder that the models will be in.

    Returns:
        The file's content.
    """
    content = bytearray()
    places: dict[bytes, int] = {}
    for tensor in (tensor for model in models for tensor in model.graph.initializer):
        if len(tensor.raw_data) < SMALL:
            continue
        if (offset := places.get(tensor.raw_data)) is None:
            content.extend(bytes(-len(content) % ALIGNMENT))
            offset = places[tensor.raw_data] = len(content)
            content.extend(tensor.raw_data)
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    return bytes(content)
