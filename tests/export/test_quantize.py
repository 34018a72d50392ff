"""Laws of the search in 8 bits: close to float32, independent of the batch, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.quantize import LARGEST_WEIGHT, products, quantize_weight, quantized
from t2tdeploy.export.ranges import Range, measure_ranges
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import transformer_tiny
from t2tdeploy.runtime import GraphSession, SearchResult
from t2tdeploy.sentences import pad_rows
from tests.models.tiny import random_sources

torch.set_num_threads(1)
VOCAB = 200
SOURCES = random_sources(VOCAB, seed=1, count=20)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(5)
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", VOCAB) for name in ("inputs", "targets")}
    return Transformer(transformer_tiny(), features).eval()


@pytest.fixture(scope="module")
def graph(model: Transformer) -> ModelProto:
    return export_beam_search(model)


@pytest.fixture(scope="module")
def ranges(graph: ModelProto) -> dict[str, Range]:
    names = {product.node.input[0] for product in products(graph.graph)}
    return measure_ranges(graph, names, SOURCES, beam_size=4, alpha=0.6, extra_length=10)


@pytest.fixture(scope="module")
def eight_bits(graph: ModelProto, ranges: dict[str, Range]) -> ModelProto:
    return quantized(graph, ranges)


def search(session: GraphSession, rows: list[list[int]]) -> SearchResult:
    limits = np.array([len(row) + 8 for row in rows])
    return session.search(pad_rows(rows), limits, beam_size=4, alpha=0.6, num_hypotheses=2)


def test_every_product_with_a_weight_is_found(model: Transformer, graph: ModelProto) -> None:
    linear = sum(isinstance(part, torch.nn.Linear) for part in model.modules())
    assert len(products(graph.graph)) == linear + 1  # the output layer, which is the embedding


def test_it_is_onnx_and_small(graph: ModelProto, eight_bits: ModelProto) -> None:
    onnx.checker.check_model(eight_bits, full_check=True)
    embedding = VOCAB * 128 * 4  # floats, for lookup
    assert eight_bits.ByteSize() - embedding < 0.5 * (graph.ByteSize() - embedding)
    matrices = [tensor for tensor in eight_bits.graph.initializer if np.prod(tensor.dims) > 1024]
    assert sum(tensor.data_type == onnx.TensorProto.FLOAT for tensor in matrices) == 1  # the embedding


def test_onnxruntime_multiplies_integers(graph: ModelProto, eight_bits: ModelProto, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(eight_bits.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def count(graph: GraphProto) -> int:
        bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        return sum(node.op_type == "MatMulIntegerToFloat" for node in graph.node) + sum(map(count, bodies))

    optimized = onnx.load(options.optimized_model_filepath)
    assert count(optimized.graph) == len(products(graph.graph))


def test_a_product_in_a_branch_stays_float() -> None:
    """Its range cannot be measured."""
    product = helper.make_node("MatMul", ["x", "weight"], ["y"])
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    branch = helper.make_graph([product], "branch", [], out)
    choice = helper.make_node("If", ["which"], ["z"], then_branch=branch, else_branch=branch)
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "weight")
    assert products(helper.make_graph([choice], "main", [], [], [weight])) == []


def test_scores_are_close_to_those_of_float32(graph: ModelProto, eight_bits: ModelProto) -> None:
    exact, rounded = (search(GraphSession(one.SerializeToString(), threads=1), SOURCES) for one in (graph, eight_bits))
    assert np.median(np.abs(exact.scores - rounded.scores)) < 0.05  # a few searches take another way
    assert not np.array_equal(exact.scores, rounded.scores)


def test_a_translation_does_not_depend_on_its_batch(eight_bits: ModelProto) -> None:
    session = GraphSession(eight_bits.SerializeToString(), threads=1)
    together = search(session, SOURCES)
    for row, source in enumerate(SOURCES):
        alone = search(session, [source])
        width = alone.target_ids.shape[2]
        assert np.array_equal(together.target_ids[row, :, :width], alone.target_ids[0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-4)


def test_ranges_are_those_of_the_model(model: Transformer, graph: ModelProto) -> None:
    seen: list[float] = []
    attention = model.encoder[0].attention  # type: ignore[union-attr]
    layer = attention.query_key_value  # type: ignore[union-attr]
    hook = layer.register_forward_hook(
        lambda _, inputs, __: seen.extend([float(inputs[0].min()), float(inputs[0].max())])
    )
    with torch.no_grad():
        model.encode(torch.tensor([SOURCES[2]]))
    hook.remove()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    expected = layer.weight.detach().numpy().T  # type: ignore[union-attr, operator]
    name = next(
        product.node.input[0] for product in products(graph.graph)
        if weights[product.weight].shape == expected.shape and np.array_equal(weights[product.weight], expected)
    )  # fmt: skip
    found = measure_ranges(graph, {name}, [SOURCES[2]], beam_size=2, alpha=0.6, extra_length=3)
    np.testing.assert_allclose(found[name], seen, rtol=1e-5)


@given(arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=32)))
def test_a_weight_is_off_by_half_a_step_at_most(matrix: np.ndarray) -> None:
    integers, scale = quantize_weight(matrix)
    assert np.abs(integers.astype(int)).max() <= LARGEST_WEIGHT
    assert np.all(np.abs(matrix - integers * scale) <= 0.5001 * scale)
