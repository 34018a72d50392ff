"""What a training graph's inputs and outputs are: the small JSON file beside it, enough to use the graph without us."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from t2tdeploy.settings import Settings

Axis = int | str  # a size, the name of an axis, or an expression of names such as "2*batch"
Axes = Mapping[str, int]

FORMAT_VERSION = 1
NUMERATOR, DENOMINATOR, CORRECT, LOSS_SCALE = "numerator", "denominator", "correct", "loss_scale"
LOGITS = "logits"


class TensorSpec(Settings):
    """An input or output: its name, ONNX element type in NumPy's words, and shape."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]


class MaskSpec(Settings):
    """A dropout mask: uint8, drawn anew for every run of the graph; 0 with probability `rate`, else 1."""

    name: str
    rate: float
    shape: tuple[Axis, ...]


class NoiseSpec(Settings):
    """Random numbers, float32, drawn anew for every run of the graph: uniform in [0, 1), or standard normal."""

    name: str
    distribution: Literal["uniform", "normal"]
    shape: tuple[Axis, ...]


Drawn = MaskSpec | NoiseSpec


class Manifest(Settings):
    """What runs of the graph are given, and what they give.

    One run is one batch. Gradients are those of `loss_scale * numerator`; with `loss_scale` = 1 / denominator they are
    those of the mean loss. Batches that are accumulated share one `loss_scale`, 1 / the sum of their denominators.
    """

    format_version: int = FORMAT_VERSION
    builder: Literal["portable", "onnxruntime-training"]
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it is fast; any onnxruntime runs it")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of matrix products; parameters and gradients are float32"
    )
    features: tuple[TensorSpec, ...] = Field(description="inputs: the batch, in the model's order; PAD of text is 0")
    parameters: tuple[TensorSpec, ...] = Field(description="inputs; output NAME.grad for each")
    fixed: tuple[TensorSpec, ...] = Field(description="inputs: frozen parameters and buffers")
    masks: tuple[MaskSpec, ...] = Field(description="inputs: dropout masks")
    noise: tuple[NoiseSpec, ...] = Field((), description="inputs: other random numbers")
    changed: tuple[str, ...] = Field(description="names of `fixed` that a run changes: output NAME.new for each")
    versions: dict[str, str] = Field(description="of the packages that built it")


def axes_of(features: tuple[TensorSpec, ...], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes of named axes, from the shapes of a batch's arrays."""
    return {
        axis: size
        for spec in features
        for axis, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(axis, str)
    }


def size_of(axis: Axis, axes: Axes) -> int:
    """The value of an axis: its size, or its expression over named sizes.

    >>> size_of("2*batch", {"batch": 3})
    6
    """
    return axis if isinstance(axis, int) else _evaluate(ast.parse(axis, mode="eval").body, axes)


def names_of(axis: Axis) -> set[str]:
    """The named sizes that an axis is computed from.

    >>> names_of("2*batch")
    {'batch'}
    """
    if isinstance(axis, int):
        return set()
    return {node.id for node in ast.walk(ast.parse(axis, mode="eval")) if isinstance(node, ast.Name)}


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def _evaluate(node: ast.expr, axes: Axes) -> int:
    match node:
        case ast.Constant(int(value)):
            return value
        case ast.Name(name):
            return axes[name]
        case ast.BinOp(left, operation, right) if type(operation) in _OPERATORS:
            result: int = _OPERATORS[type(operation)](_evaluate(left, axes), _evaluate(right, axes))
            return result
    raise ValueError(f"not an axis: {ast.unparse(node)}")
