"""Laws of where weights lie: written and read again, a graph is what it was; what Loops read lies in their bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from t2tdeploy.export.placement import read_search, serialized
from t2tdeploy.runtime import GraphSession
from tests.export.graphs import TINY_VOCAB, tiny_graph
from tests.models.tiny import padded, random_sources


def test_a_graph_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = tiny_graph().SerializeToString(deterministic=True)
    (tmp_path / "model.onnx").write_bytes(serialized(tiny_graph()))
    assert tiny_graph().SerializeToString(deterministic=True) == before
    again, graph = read_search(tmp_path / "model.onnx").graph, tiny_graph().graph
    weights = {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}
    assert {tensor.name: tensor.SerializeToString() for tensor in again.initializer} == weights
    assert list(again.node) == list(graph.node)


def test_the_weights_that_only_steps_read_lie_one_level_above_them() -> None:
    written = onnx.load_from_string(serialized(tiny_graph()))
    onnx.checker.check_model(written, full_check=True)
    root, body = written.graph, _body(written)
    steps = next(node for node in body.node if node.name == "search")
    step = next(attribute.g for attribute in steps.attribute if attribute.name == "body")
    multiplied = {node.input[1] for node in step.node if node.op_type == "MatMul"}
    matrices = {tensor.name for tensor in tiny_graph().graph.initializer} & multiplied
    assert matrices
    assert matrices <= {tensor.name for tensor in body.initializer}
    assert matrices.isdisjoint({tensor.name for tensor in root.initializer})


def test_it_changes_no_result() -> None:
    rows = random_sources(TINY_VOCAB, seed=5, count=4)
    found = [
        GraphSession(content, threads=1).search(
            padded(rows).numpy(), np.full(4, 9), beam_size=3, alpha=0.6, num_hypotheses=2
        )
        for content in (tiny_graph().SerializeToString(), serialized(tiny_graph()))
    ]
    assert np.array_equal(found[0].target_ids, found[1].target_ids)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-5)


def _body(model: onnx.ModelProto) -> onnx.GraphProto:
    loop = next(node for node in model.graph.node if node.name == "segments")
    return next(attribute.g for attribute in loop.attribute if attribute.name == "body")
