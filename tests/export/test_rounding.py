"""Laws of weights as integers: no product of theirs overflows, and they are rounded for the product."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.export.rounding import LARGEST_PAIR, LARGEST_WEIGHT, quantize_weight

matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-100, 100, width=32))


def correlated(inputs: int, rows: int = 400) -> np.ndarray:
    draw = np.random.default_rng(1)
    return (
        draw.normal(size=(rows, 3)) @ draw.normal(size=(3, inputs)) + 0.1 * draw.normal(size=(rows, inputs))
    ).astype(np.float32)


@given(matrices)
@example(np.full((2, 1), 1e-43, np.float32))
def test_a_weight_is_off_by_half_a_step_at_most(matrix: np.ndarray) -> None:
    integers, scale = quantize_weight(matrix)
    assert np.all(np.abs(matrix - integers * scale) <= 0.5001 * scale)


@given(matrices, st.booleans())
def test_no_pair_of_products_overflows_16_bits(matrix: np.ndarray, compensated: bool) -> None:
    rows = correlated(len(matrix))
    integers, _ = quantize_weight(matrix, rows.T @ rows if compensated else None)
    wide = np.pad(integers.astype(int), ((0, len(matrix) % 2), (0, 0))).reshape(-1, 2, matrix.shape[1])
    assert np.abs(wide).max() <= LARGEST_WEIGHT
    assert 255 * np.maximum(wide, 0).sum(axis=1).max() <= 255 * LARGEST_PAIR <= 2**15 - 1
    assert 255 * np.minimum(wide, 0).sum(axis=1).min() >= -(2**15)


@pytest.mark.parametrize("compensated", [False, True])
def test_onnxruntime_sums_them_exactly(compensated: bool) -> None:
    """The largest activations, the largest weights, on the CPU at hand."""
    draw = np.random.default_rng(2)
    rows = correlated(64)
    matrix = np.abs(draw.normal(size=(64, 48))).astype(np.float32) ** 0.2  # many weights near the largest
    matrix[:, ::2] *= -1
    integers, scale = quantize_weight(matrix, rows.T @ rows if compensated else None)
    activations = np.concatenate([np.full((1, 64), 255), draw.integers(200, 256, (7, 64))]).astype(np.float32)
    expected = (activations.astype(int) @ integers.astype(int)) * scale
    np.testing.assert_allclose(product_of_integers(activations, integers, scale), expected, rtol=1e-5)


def product_of_integers(activations: np.ndarray, integers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_integers"]),
        helper.make_node("DequantizeLinear", ["x_integers", "one", "zero"], ["x_numbers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zeros"], ["weight"], axis=1),
        helper.make_node("MatMul", ["x_numbers", "weight"], ["y"]),
    ]
    constants = {
        "one": np.array(1, np.float32), "zero": np.array(0, np.uint8),
        "integers": integers, "scale": scale, "zeros": np.zeros(len(scale), np.int8),
    }  # fmt: skip
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "product", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": activations})[0]
    return found


def test_errors_of_inputs_that_go_together_make_up_for_each_other() -> None:
    rows = correlated(64)
    matrix = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32)

    def error(moment: np.ndarray | None) -> float:
        integers, scale = quantize_weight(matrix, moment)
        return float(np.square(rows @ (integers * scale - matrix)).mean())

    assert error(rows.T @ rows) < 0.3 * error(None)


def test_much_damping_keeps_weights_at_their_own_integers() -> None:
    rows = correlated(64)
    matrix = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32)
    nearest, _ = quantize_weight(matrix)
    damped, _ = quantize_weight(matrix, rows.T @ rows, damping=1e6)
    assert np.array_equal(nearest, damped)


def test_without_pairs_steps_are_smaller() -> None:
    matrix = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32)
    (_, limited), (integers, free) = (quantize_weight(matrix, pairs=pairs) for pairs in (True, False))
    assert np.all(free <= limited)
    assert np.all(np.abs(integers.astype(int)).max(axis=0) == LARGEST_WEIGHT)


def test_inputs_that_were_always_zero_are_no_hindrance() -> None:
    rows = correlated(8)
    rows[:, 5] = 0
    matrix = np.ones((8, 2), np.float32)
    for moment in (rows.T @ rows, np.zeros((8, 8), np.float32)):
        integers, scale = quantize_weight(matrix, moment)
        assert np.all(np.isfinite(scale))
        assert np.any(integers)
