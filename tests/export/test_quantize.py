"""Laws of the search in 8 bits: close to float32, independent of the batch, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from t2tdeploy.export import placement
from t2tdeploy.export.balance import scopes
from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.placement import read_search, serialized
from t2tdeploy.export.quantize import products, quantize_search, quantized
from t2tdeploy.export.ranges import Range, measure_ranges
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import transformer_tiny
from t2tdeploy.runtime import GraphSession, SearchResult
from t2tdeploy.sentences import pad_rows
from tests.models.tiny import random_sources

torch.set_num_threads(1)
VOCAB, HIDDEN = 4000, 128
CLOSE = 0.006  # of a score
PRODUCTS = ("MatMul", "FusedMatMul", "MatMulIntegerToFloat")
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


@pytest.fixture(scope="module")
def exact(graph: ModelProto) -> SearchResult:
    return search(GraphSession(graph.SerializeToString(), threads=1), SOURCES)


def search(session: GraphSession, rows: list[list[int]]) -> SearchResult:
    limits = np.array([len(row) + 8 for row in rows])
    return session.search(pad_rows(rows), limits, beam_size=4, alpha=0.6, num_hypotheses=2)


def test_every_product_with_a_weight_is_found(model: Transformer, graph: ModelProto) -> None:
    linear = sum(isinstance(part, torch.nn.Linear) for part in model.modules())
    assert len(products(graph.graph)) == linear + 1  # the output layer, which is the embedding


def test_it_is_onnx_and_small(graph: ModelProto, eight_bits: ModelProto) -> None:
    onnx.checker.check_model(eight_bits, full_check=True)
    assert eight_bits.ByteSize() < 0.3 * graph.ByteSize()
    matrices = [tensor for tensor in eight_bits.graph.initializer if np.prod(tensor.dims) > VOCAB]
    assert all(tensor.data_type == TensorProto.INT8 for tensor in matrices)
    assert sum(VOCAB in tensor.dims for tensor in matrices) == 1  # embedding and output layer are one


def test_onnxruntime_multiplies_integers_and_stores_no_work(
    graph: ModelProto, eight_bits: ModelProto, tmp_path: Path
) -> None:
    """In the Loop all products are of integers; what only loads weights is done when the graph is loaded."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(eight_bits.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath).graph
    found = products(graph.graph)
    repeated = sum(product.graph is not graph.graph for product in found)
    assert 0 < repeated < len(found)
    operators = [node.op_type for scope in scopes(optimized) for node in scope.node]
    assert operators.count("MatMulIntegerToFloat") == repeated
    constants = {tensor.name for tensor in optimized.initializer}
    work = [node.op_type for scope in scopes(optimized) for node in scope.node if constants.issuperset(node.input)]
    assert not {"Cast", "Transpose", "Mul", "DequantizeLinear"}.intersection(work)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_onnxruntime_packs_every_weight_of_a_step_once(
    kind: str, graph: ModelProto, eight_bits: ModelProto, tmp_path: Path
) -> None:
    """It looks for them in a node's graph and in the one around that, and packs those from afar at each step."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    content = serialized(graph if kind == "float32" else eight_bits)
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    top, body, step, *_ = scopes(onnx.load(options.optimized_model_filepath).graph)
    far, near = ({tensor.name for one in of for tensor in one.initializer} for of in ([top], [body, step]))
    read = {node.input[1] for node in step.node if node.op_type in PRODUCTS}
    assert len(read & near) == sum(product.graph is not graph.graph for product in products(graph.graph))
    assert not read & far


def test_it_is_read_as_it_was_written(eight_bits: ModelProto, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(serialized(eight_bits))
    again, before = read_search(tmp_path / "model.onnx").graph, eight_bits.graph
    assert list(again.node) == list(before.node)
    assert {one.name for one in again.initializer} == {one.name for one in before.initializer}


def test_a_graph_as_it_was_written_becomes_the_same(
    graph: ModelProto, ranges: dict[str, Range], eight_bits: ModelProto
) -> None:
    """Its weights lie in the body that reads them."""
    written = onnx.load_from_string(serialized(graph))
    assert [tensor for node in written.graph.node for scope in node.attribute for tensor in scope.g.initializer]
    found = quantized(written, ranges)
    assert list(found.graph.node) == list(eight_bits.graph.node)
    assert found.ByteSize() == eight_bits.ByteSize()
    once = quantize_search(written, SOURCES, beam_size=4, alpha=0.6, extra_length=10)
    assert once.ByteSize() == eight_bits.ByteSize()


def test_a_product_in_a_branch_stays_float() -> None:
    """Its range cannot be measured."""
    product = helper.make_node("MatMul", ["x", "weight"], ["y"])
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    branch = helper.make_graph([product], "branch", [], out)
    choice = helper.make_node("If", ["which"], ["z"], then_branch=branch, else_branch=branch)
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "weight")
    assert products(helper.make_graph([choice], "main", [], [], [weight])) == []


def difference(exact: SearchResult, model: ModelProto) -> float:
    """Of scores, in parts of them; the median, because a few searches take another way."""
    rounded = search(GraphSession(model.SerializeToString(), threads=1), SOURCES)
    return float(np.median(np.abs(exact.scores - rounded.scores) / np.abs(exact.scores)))


def test_scores_are_close_to_those_of_float32(exact: SearchResult, eight_bits: ModelProto) -> None:
    assert 0 < difference(exact, eight_bits) < CLOSE


def test_the_encoder_may_be_of_integers_too(
    exact: SearchResult, graph: ModelProto, ranges: dict[str, Range], eight_bits: ModelProto
) -> None:
    everywhere = quantized(graph, ranges, float_encoder=False)
    count = [[node.op_type for scope in scopes(one.graph) for node in scope.node].count("QuantizeLinear")
             for one in (eight_bits, everywhere)]  # fmt: skip
    inputs = {product.node.input[0]: product.graph is graph.graph for product in products(graph.graph)}
    assert count == [sum(not encoder for encoder in inputs.values()), len(inputs)]
    assert 0 < difference(exact, everywhere) < CLOSE


def test_one_call_measures_and_quantizes(graph: ModelProto, eight_bits: ModelProto) -> None:
    assert quantize_search(graph, SOURCES, beam_size=4, alpha=0.6, extra_length=10) == eight_bits


@pytest.mark.parametrize("written", [False, True])
def test_the_model_is_copied_once_and_if_possible_after_the_measurement(
    graph: ModelProto, ranges: dict[str, Range], monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """The measurement takes the most memory, and a copy is as large as the model."""
    given = onnx.load_from_string(serialized(graph)) if written else graph
    before, copies, lift = given.SerializeToString(), [], placement._lift_weights
    monkeypatch.setattr(placement, "_lift_weights", lambda copy: copies.append(copy) or lift(copy))

    def measured(model: ModelProto, *_: object, **__: object) -> dict[str, Range]:
        assert len(copies) == written
        assert (model is given) is not written
        return ranges

    monkeypatch.setattr("t2tdeploy.export.quantize.measure_ranges", measured)
    found = quantize_search(given, SOURCES, beam_size=4, alpha=0.6, extra_length=10)
    assert copies == [found.graph]
    assert given.SerializeToString() == before


def with_an_outlier(graph: ModelProto, times: float) -> ModelProto:
    """The same function; one channel of the layer norms in front of the Loop's products is that many times larger."""
    copy = ModelProto()
    copy.CopyFrom(graph)
    values = {tensor.name: tensor for tensor in copy.graph.initializer}
    found = [product for product in products(copy.graph) if product.graph is not copy.graph and not product.transposed]
    norms = {node.output[0]: node for node in found[0].graph.node if node.op_type == "LayerNormalization"}
    for product in found:
        if (norm := norms.get(product.node.input[0])) is not None:
            for node, place, factor in ((norm, 1, times), (norm, 2, times), (product.node, 1, 1 / times)):
                array = numpy_helper.to_array(values[node.input[place]]).copy()
                array[3] *= factor
                node.input[place] = f"{node.output[0]}/{place}"  # others may share the old one
                copy.graph.initializer.append(numpy_helper.from_array(array, node.input[place]))
    return copy


def test_outliers_do_not_cost_accuracy(exact: SearchResult, graph: ModelProto) -> None:
    larger = with_an_outlier(graph, 100)
    np.testing.assert_allclose(difference(exact, larger), 0, atol=1e-5)
    names = {product.node.input[0] for product in products(larger.graph)}
    ranges = measure_ranges(larger, names, SOURCES, beam_size=4, alpha=0.6, extra_length=10)
    assert difference(exact, quantized(larger, ranges)) < CLOSE
    unbalanced = {name: Range(found.low, found.high) for name, found in ranges.items()}
    assert difference(exact, quantized(larger, unbalanced)) > 3 * CLOSE


def test_a_row_of_an_embedding_is_its_rounding() -> None:
    table = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    table[0] = 0
    lookup = helper.make_node("Gather", ["table", "ids"], ["rows"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "length", 6])
    whole = helper.make_graph([lookup], "main", [ids], [rows], [numpy_helper.from_array(table, "table")])
    model = quantized(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), {})
    assert [tensor.dims for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8] == [[7, 6]]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": np.array([[3, 0, 1], [6, 3, 0]])})
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found - table[[[3, 0, 1], [6, 3, 0]]]) <= 0.5001 * step[[[3, 0, 1], [6, 3, 0]]])
    assert np.all(found[0, 1] == 0)


def test_a_translation_does_not_depend_on_its_batch(eight_bits: ModelProto) -> None:
    session = GraphSession(eight_bits.SerializeToString(), threads=1)
    together = search(session, SOURCES)
    for row, source in enumerate(SOURCES):
        alone = search(session, [source])
        width = alone.target_ids.shape[2]
        assert np.array_equal(together.target_ids[row, :, :width], alone.target_ids[0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-4)


def test_ranges_are_those_of_the_model(model: Transformer, graph: ModelProto) -> None:
    seen: list[torch.Tensor] = []
    attention = model.encoder[0].attention  # type: ignore[union-attr]
    layer = attention.query_key_value  # type: ignore[union-attr]
    hook = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0]))
    with torch.no_grad():
        model.encode(torch.tensor([SOURCES[2]]))
    hook.remove()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    expected = layer.weight.detach().numpy().T  # type: ignore[union-attr, operator]
    name = next(
        product.node.input[0] for product in products(graph.graph)
        if weights[product.weight].shape == expected.shape and np.array_equal(weights[product.weight], expected)
    )  # fmt: skip
    found = measure_ranges(graph, {name}, [SOURCES[2]], beam_size=2, alpha=0.6, extra_length=3)[name]
    rows = seen[0].numpy()
    np.testing.assert_allclose([found.low, found.high], [rows.min(), rows.max()], rtol=1e-5)
    assert found.channels is not None
    np.testing.assert_allclose(found.channels.low, rows.min(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.channels.high, rows.max(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.channels.moment, rows.T @ rows, atol=1e-4)


def test_all_steps_of_all_beams_count(graph: ModelProto) -> None:
    """A row that a new layer norm makes has as many for its sum of squares as channels."""
    found = [product for product in products(graph.graph) if product.graph is not graph.graph]
    last = next(product.node.input[0] for product in found if product.transposed)
    source = SOURCES[2]
    measured = measure_ranges(graph, {last}, [source], beam_size=3, alpha=0.6, extra_length=4)[last].channels
    limit = np.array([len(source) + 4])
    session = GraphSession(graph.SerializeToString(), threads=1)
    steps = session.search(pad_rows([source]), limit, beam_size=3, alpha=0.6, num_hypotheses=1).target_ids.shape[2]
    assert measured is not None
    assert steps > 1
    assert np.trace(measured.moment) == pytest.approx(HIDDEN * 3 * steps, rel=1e-3)


def test_batches_are_taken_together(graph: ModelProto, ranges: dict[str, Range]) -> None:
    rows = sorted(SOURCES, key=len)
    names = [*ranges]
    parts = [
        measure_ranges(graph, names, part, beam_size=4, alpha=0.6, extra_length=10) for part in (rows[:16], rows[16:])
    ]
    for name in names:
        assert ranges[name].low == pytest.approx(min(part[name].low for part in parts))
        assert ranges[name].high == pytest.approx(max(part[name].high for part in parts))
        one, other, both = (found[name].channels for found in (*parts, ranges))
        assert one
        assert other
        assert both
        np.testing.assert_allclose(both.moment, one.moment + other.moment, rtol=1e-3, atol=1e-2)


def test_a_narrow_embedding_stays_as_it_is() -> None:
    lookup = helper.make_node("Gather", ["table", "ids"], ["rows"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 3])
    table = numpy_helper.from_array(np.ones((7, 3), np.float32), "table")
    whole = helper.make_model(helper.make_graph([lookup], "main", [ids], [rows], [table]))
    assert quantized(whole, {}) == whole
