"""A product of a matrix and a vector is what torch computes, at every level of onnxruntime's optimization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.export.classifier import export_classifier
from t2tdeploy.export.undecomposed import to_onnx
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.model import Model
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.training.engines import make_engine
from tests.export.calls import Calls
from tests.models.labelled import LABEL, TEXT, random_batch

LEVELS = onnxruntime.GraphOptimizationLevel
VECTOR = torch.randn(3)


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mT @ x[0, :, 0],
        lambda x: x.mT @ VECTOR,
        lambda x: x[0].mT.mv(x[1, :, 0]).unsqueeze(0),
        lambda x: x @ x[0, 0],
        lambda x: x[0, :, 0] @ x,
        lambda x: torch.cond(x.sum() > 1e6, lambda x: x.sum(1), lambda x: (x + 1).mT @ VECTOR, (x,)),
    ],
)
def test_products_with_vectors(function: Callable[[Tensor], Tensor], level: onnxruntime.GraphOptimizationLevel) -> None:
    program = to_onnx(
        Calls(function),
        (torch.randn(3, 3, 4),),
        dynamic_shapes=(({0: Dim("rows")},),),
        inputs=["x"],
        outputs=["y"],
        opset=18,
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 4)
    (found,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), function(x))


FEATURES = {"inputs": TEXT, "targets": LABEL}
SMALL = BasicHParams.create({"hidden_size": 8})


class AttentionPooling(Model):
    """The mean of the tokens, weighted by their products with one vector, and of a spectrally normalized layer."""

    independent_rows = True

    def __init__(self, hparams: BasicHParams, features: dict[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        size = hparams.hidden_size
        self.inner = nn.utils.parametrizations.spectral_norm(nn.Linear(size, size))
        self.query = nn.Parameter(torch.linspace(-1, 1, size))
        self.turned = nn.Parameter(torch.linspace(-1, 1, size).outer(torch.linspace(0, 1, size)))

    def body(self, features: dict[str, Tensor]) -> Tensor:
        x = self.inner(features["inputs"])
        weights = (x.tanh() @ self.query).masked_fill(~features["inputs_mask"], -1e9).softmax(1)
        pooled = (x.mT @ weights.unsqueeze(-1)).squeeze(-1)
        return pooled * (self.turned.t() @ self.query)


def test_a_model_trains_evaluates_and_is_exported_as_in_torch(tmp_path: Path) -> None:
    batch = random_batch(FEATURES, 9)
    losses = {}
    for name in ("torch", "ort"):
        torch.manual_seed(3)
        model = AttentionPooling(SMALL, FEATURES)
        engine = make_engine(name, model, SMALL, device=torch.device("cpu"))
        steps = [engine.step([batch], learning_rate=0.01) for _ in range(3)]
        losses[name] = [value for one in steps for value in (one.loss, one.gradient_norm)]
        losses[name].append(engine.evaluate(batch).loss)
    np.testing.assert_allclose(losses["ort"], losses["torch"], rtol=1e-4)
    tokenizers = {"inputs": ByteTokenizer()}
    # Refuses a graph that answers otherwise than the model.
    export_classifier(
        model, tmp_path / "bundle", name="toy", tokenizers=tokenizers, max_length=30, examples=batch, provenance={}
    )
