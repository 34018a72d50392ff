"""Random numbers, as operators that masks.py makes inputs of the graph; those that have none are refused.

onnxruntime would draw from a generator whose state cannot be saved, and might take two equal draws for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from onnxscript import ir

from t2tdeploy.training.graph.translations.shapes import as_type_of, constant, float32, op, size_vector

_STEP = 2.0**-24  # between uniform numbers


def bernoulli_p(x: Any, p: float = 0.5, generator: Any = None) -> Any:
    """aten.bernoulli.p: 1 with probability p, else 0, of x's shape and type; what AlphaDropout draws. As the mask of a
    Dropout, a byte each."""
    if p in (0.0, 1.0):
        return op.Expand(constant(p, x.dtype), op.Shape(x))
    rate = constant(1.0 - p, ir.DataType.FLOAT)
    drawn, mask = op.Dropout(float32(x), rate, constant(True, ir.DataType.BOOL))
    drawn.shape = x.shape
    return op.Cast(mask, to=x.dtype)


def bernoulli(x: Any, generator: Any = None) -> Any:
    """aten.bernoulli: 1 with probability x, element by element, else 0."""
    return op.Cast(op.Less(_noise(op.RandomUniformLike, x), float32(x)), to=x.dtype)


def uniform(x: Any, low: float = 0.0, high: float = 1.0, generator: Any = None) -> Any:
    """aten.uniform: of x's shape and type, between low and high."""
    drawn = _noise(op.RandomUniformLike, x)
    return as_type_of(_moved(drawn, high - low, low), x)


def normal(x: Any, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Any:
    """aten.normal_functional: of x's shape and type."""
    return as_type_of(_moved(_noise(op.RandomNormalLike, x), std, mean), x)


def exponential(x: Any, rate: float = 1.0, generator: Any = None) -> Any:
    """aten.exponential: of x's shape and type, above 0, so that its logarithm (Gumbel noise) is finite."""
    drawn = op.Max(_noise(op.RandomUniformLike, x), constant(_STEP, ir.DataType.FLOAT))
    left = op.Log(op.Sub(constant(1.0, ir.DataType.FLOAT), drawn))
    return as_type_of(op.Mul(left, constant(-1.0 / rate, ir.DataType.FLOAT)), x)


def rand_like(x: Any, dtype: int | None = None, **options: Any) -> Any:
    """aten.rand_like: between 0 and 1; `dtype` is ONNX's number."""
    return _as(_noise(op.RandomUniformLike, x), dtype or x.dtype)


def randn_like(x: Any, dtype: int | None = None, **options: Any) -> Any:
    """aten.randn_like: of mean 0 and standard deviation 1."""
    return _as(_noise(op.RandomNormalLike, x), dtype or x.dtype)


def rand(size: Sequence[Any], dtype: int | None = None, **options: Any) -> Any:
    """aten.rand: between 0 and 1."""
    return _as(_noise_of(op.RandomUniformLike, size_vector(size)), dtype or ir.DataType.FLOAT)


def randn(size: Sequence[Any], dtype: int | None = None, **options: Any) -> Any:
    """aten.randn: of mean 0 and standard deviation 1."""
    return _as(_noise_of(op.RandomNormalLike, size_vector(size)), dtype or ir.DataType.FLOAT)


def _noise(draw: Callable[..., Any], x: Any) -> Any:
    """float32 of x's shape."""
    drawn = _noise_of(draw, op.Shape(x))
    drawn.shape = x.shape
    return drawn


def _noise_of(draw: Callable[..., Any], shape: Any) -> Any:
    return draw(op.Expand(constant(0.0, ir.DataType.FLOAT), shape), dtype=int(ir.DataType.FLOAT))


def _moved(drawn: Any, scale: float, start: float) -> Any:
    scaled = op.Mul(drawn, constant(scale, ir.DataType.FLOAT)) if scale != 1.0 else drawn
    return op.Add(scaled, constant(start, ir.DataType.FLOAT)) if start else scaled


def _as(drawn: Any, dtype: int) -> Any:
    return drawn if dtype == ir.DataType.FLOAT else op.Cast(drawn, to=int(dtype))


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("random numbers that a resumed run draws again")


_OTHERS = (
    *("multinomial", "normal", "poisson", "binomial", "randint", "randint_like", "randperm", "random", "cauchy"),
    *("geometric", "log_normal", "rrelu_with_noise", "rrelu_with_noise_functional", "_standard_gamma"),
)


def _operators() -> Iterator[Any]:
    for name in _OTHERS:
        packet = getattr(torch.ops.aten, name)
        yield from (getattr(packet, overload) for overload in packet.overloads())


TABLE: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_operators(), _refused),
    torch.ops.aten.bernoulli.default: bernoulli,
    torch.ops.aten.bernoulli.p: bernoulli_p,
    torch.ops.aten.exponential.default: exponential,
    torch.ops.aten.normal_functional.default: normal,
    torch.ops.aten.rand.default: rand,
    torch.ops.aten.rand_like.default: rand_like,
    torch.ops.aten.randn.default: randn,
    torch.ops.aten.randn_like.default: randn_like,
    torch.ops.aten.uniform.default: uniform,
}
