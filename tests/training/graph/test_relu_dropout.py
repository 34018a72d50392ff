"""The gradient through ReLU and dropout from their result: the same numbers, and nothing else is touched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, parser

from t2tdeploy.models.transformer import Transformer
from t2tdeploy.training.graph.build import build_training_graph
from t2tdeploy.training.graph.masks import masks_as_inputs
from t2tdeploy.training.graph.relu_dropout import merge_relu_dropout
from tests.models.tiny import HPARAMS, features
from tests.training.graph.parity import run

# As translations/relu.py and translations/dropout.py write them; {looked_at} is what the gate compares, {mask} what the
# gradient is multiplied with before.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
gradient (float[batch, 6] x, float[batch, 6] dy) => (float[batch, 6] y, float[batch, 6] dx)
<float rate = {{0.25}}, bool training = {{1}}, float threshold = {{{threshold}}}, float scale = {{1.3333334}}>
{{
    r = Relu (x)
    other = Neg (r)
    y, y_mask = Dropout (r, rate, training)
    z, z_mask = Dropout (other, rate, training)
    y_bytes = Cast <to = 2> ({mask})
    factor = DequantizeLinear (y_bytes, scale)
    dr = Mul (dy, factor)
    above = Greater ({looked_at}, threshold)
    gate = Cast <to = 1> (above)
    dx = Mul (dr, gate)
}}
"""


def graph(threshold: float = 0.0, mask: str = "y_mask", looked_at: str = "r") -> ModelProto:
    text = GRAPH.format(threshold=threshold, mask=mask, looked_at=looked_at)
    model = onnx.shape_inference.infer_shapes(parser.parse_model(text))
    masks_as_inputs(model)
    return model


def feed() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(50, 6, generator=random)
    x[0] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45])
    masks = {
        f"dropout_{number}": torch.randint(0, 2, x.shape, generator=random, dtype=torch.uint8) for number in (0, 1)
    }
    masks["dropout_0"][0] = 1
    return {"x": x, "dy": torch.randn(x.shape, generator=random), **masks}


def test_numbers_are_the_same_to_the_bit() -> None:
    before, after = graph(), graph()
    merge_relu_dropout(after)
    onnx.checker.check_model(after, full_check=True)
    assert before != after
    expected, found = run(before, feed()), run(after, feed())
    for name in ("y", "dx"):
        np.testing.assert_array_equal(found[name].view(np.uint32), expected[name].view(np.uint32))


def test_the_mask_is_read_forward_only() -> None:
    model = graph()
    merge_relu_dropout(model)
    readers = [node for node in model.graph.node if "dropout_0" in node.input]
    assert [node.op_type for node in readers] == ["DequantizeLinear"]
    assert Counter(node.op_type for node in model.graph.node)["Mul"] == 2
    compared = next(node for node in model.graph.node if node.op_type == "Greater")
    assert compared.input[0] == "y"


@pytest.mark.parametrize(
    "of", [{"threshold": 0.5}, {"mask": "z_mask"}, {"looked_at": "x"}], ids=["threshold", "mask", "another"]
)
def test_other_gates_stay_as_they_are(of: dict[str, object]) -> None:
    """Of another threshold, the mask of another tensor, or another tensor that is compared."""
    before, after = graph(**of), graph(**of)  # type: ignore[arg-type]
    merge_relu_dropout(after)
    expected, found = run(before, feed()), run(after, feed())
    np.testing.assert_array_equal(found["dx"], expected["dx"])
    assert {node.name for node in after.graph.node if node.name.startswith("dx/")} == set()


def test_every_feed_forward_layer_of_a_transformer_is_one() -> None:
    """What the translations write today is what is looked for."""
    one_layer = HPARAMS.replace(num_encoder_layers=1, num_decoder_layers=1)
    model = Transformer(one_layer.replace(dropout=0.1, relu_dropout=0.25), features(20))
    graph = build_training_graph(model, label_smoothing=0.1).training
    forward = Counter(node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear")
    relus = [node.output[0] for node in graph.graph.node if node.op_type == "Relu"]
    assert len(relus) == len(model.encoder) + len(model.decoder)
    for relu in relus:
        readers = [node for node in graph.graph.node if relu in node.input]
        assert [node.op_type for node in readers] == ["Mul"]
        factor = next(node for node in graph.graph.node if readers[0].input[1] in node.output)
        assert forward[factor.input[0]] == 1
