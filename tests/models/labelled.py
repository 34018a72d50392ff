"""Random batches of any features, and the models for fixed outputs in a small size without dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from t2tdeploy.columns.fitted import NumericColumn
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import BasicHParams, HParams
from t2tdeploy.models import image_hparams
from t2tdeploy.models.alexnet import Alexnet
from t2tdeploy.models.bag_of_embeddings import BagOfEmbeddings
from t2tdeploy.models.basic_fc import BasicFc
from t2tdeploy.models.basic_hparams import BagHParams
from t2tdeploy.models.model import Model
from t2tdeploy.models.nbsvm import Nbsvm
from t2tdeploy.models.nbsvm_hparams import NbsvmHParams
from t2tdeploy.models.resnet import Resnet
from t2tdeploy.models.revnet import Revnet
from t2tdeploy.models.shake_shake import ShakeShake
from t2tdeploy.models.tabular import (
    Baseline,
    DnnClassifier,
    DnnRegressor,
    LinearClassifier,
    LinearRegressor,
    WideAndDeep,
)
from t2tdeploy.models.tabular_hparams import DnnHParams, LinearHParams
from t2tdeploy.models.transformer_encoder import TransformerEncoder
from t2tdeploy.models.transformer_hparams import transformer_encoder_tiny
from t2tdeploy.models.xception import Xception
from t2tdeploy.training.parameters import tensors_from

Arrays = dict[str, np.ndarray]

TEXT = FeatureSpec("inputs", Modality.SYMBOL, vocabulary="inputs", vocab_size=30)
IMAGE = FeatureSpec("inputs", Modality.IMAGE, shape=(6, 5, 3))
COLUMNS = {
    "width (cm)": FeatureSpec("width (cm)", Modality.REAL),  # names that are no identifiers, or torch's own
    "values": FeatureSpec("values", Modality.REAL, shape=(2, 3)),
    "type": FeatureSpec("type", Modality.CATEGORY, vocab_size=7),
    "tags": FeatureSpec("tags", Modality.MULTI_LABEL, classes=("x", "y")),
    "kind": FeatureSpec("kind", Modality.CLASS_LABEL, classes=("k", "l", "m")),
}
NOTE = FeatureSpec("text", Modality.SYMBOL, vocabulary="targets", vocab_size=9)  # the name of another feature
TABLE = {name: spec for name, spec in COLUMNS.items() if spec.modality in (Modality.REAL, Modality.CATEGORY)} | {
    "word": FeatureSpec("word", Modality.CATEGORY, vocab_size=40)
}
LABEL = FeatureSpec("targets", Modality.CLASS_LABEL, classes=("a", "b", "c"))
LABELS = FeatureSpec("targets", Modality.MULTI_LABEL, classes=("a", "b", "c", "d"))
NUMBERS = FeatureSpec("targets", Modality.REAL, shape=(2,))
NUMBER = FeatureSpec("targets", Modality.REAL)
SPREAD = NumericColumn(reads="price", mean=(200.0,), deviation=(50.0,))
PRICE = FeatureSpec("targets", Modality.REAL, column=SPREAD.to_json())


def random_array(spec: FeatureSpec, rows: int, length: int, random: np.random.Generator) -> np.ndarray:
    match spec.modality:
        case Modality.SYMBOL:
            ends = np.append(length, random.integers(1, length + 1, rows - 1))
            return random.integers(1, spec.vocab_size, (rows, length)) * (np.arange(length) < ends[:, None])
        case Modality.CLASS_LABEL:
            return random.integers(0, len(spec.classes), rows)
        case Modality.MULTI_LABEL:
            return random.integers(0, 2, (rows, len(spec.classes))).astype(np.float32)
        case Modality.REAL:
            return random.normal(size=(rows, *spec.shape)).astype(np.float32)
        case Modality.IMAGE:
            return random.integers(0, 256, (rows, *spec.shape)).astype(np.uint8)
        case Modality.CATEGORY:
            return random.integers(0, spec.vocab_size, rows)


def random_batch(features: Mapping[str, FeatureSpec], rows: int, *, length: int = 6, seed: int = 0) -> Arrays:
    """What datasets give: of texts the first one full, the others padded."""
    random = np.random.default_rng(seed)
    return {name: random_array(spec, rows, length, random) for name, spec in features.items()}


class SmallConvolution(Model):
    """What images need of a graph: bytes in, a convolution, batch normalization."""

    def __init__(self, hparams: BasicHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=16)
        self.convolution = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        x: Tensor = self.norm(self.convolution(features["inputs"])).relu().mean((2, 3))
        return x


class Case(NamedTuple):
    """A model and what it is built for."""

    model: type[Model]
    hparams: HParams
    features: dict[str, FeatureSpec]

    def make(self) -> Model:
        """Always the same parameters."""
        torch.manual_seed(1)
        model = self.model(self.hparams, self.features)
        with torch.no_grad():
            model.initialize([tensors_from(random_batch(self.features, 16, seed=1), torch.device("cpu"))])
        return model


# Every registered model for fixed outputs is here, small and without dropout; together they have all modalities.
# Of the models of tables it is those that together consist of all there is to them.
CASES: dict[str, Case] = {
    "transformer_encoder": Case(
        TransformerEncoder,
        transformer_encoder_tiny().replace(
            hidden_size=8, filter_size=16, num_heads=2, num_encoder_layers=1,
            dropout=0.0, attention_dropout=0.0, relu_dropout=0.0, label_smoothing=0.1,
        ),
        {"inputs": TEXT, "targets": LABEL},
    ),
    "bag_of_embeddings": Case(
        BagOfEmbeddings,
        BagHParams.create(
            {"hidden_size": 8, "num_hidden_layers": 1, "dropout": 0.0, "word_dropout": 0.0, "label_smoothing": 0.1}
        ),
        {"inputs": TEXT, "targets": LABELS},
    ),
    "nbsvm": Case(
        Nbsvm, NbsvmHParams.create({"min_ngram": 1, "max_ngram": 3, "buckets": 64}), {"inputs": TEXT, "targets": LABEL}
    ),
    "basic_fc": Case(BasicFc, BasicHParams.create({"hidden_size": 8}), {**COLUMNS, "text": NOTE, "targets": NUMBERS}),
    "dnn_classifier": Case(DnnClassifier, DnnHParams.create({"hidden_units": (8,)}), {**TABLE, "targets": LABEL}),
    "linear_classifier": Case(LinearClassifier, LinearHParams.create({}), {**TABLE, "targets": LABELS}),
    "linear_regressor": Case(LinearRegressor, LinearHParams.create({}), {**TABLE, "targets": PRICE}),
    "dnn_regressor": Case(DnnRegressor, DnnHParams.create({"hidden_units": (8,)}), {**TABLE, "targets": PRICE}),
    "wide_and_deep": Case(WideAndDeep, DnnHParams.create({"hidden_units": (8, 4)}), {**TABLE, "targets": LABEL}),
    "baseline": Case(Baseline, LinearHParams.create({}), {**TABLE, "targets": LABEL}),
    "convolution": Case(SmallConvolution, BasicHParams.create({}), {"inputs": IMAGE, "targets": LABEL}),
    "resnet": Case(
        Resnet,
        image_hparams.resnet_small().replace(layer_sizes=(1,), filter_sizes=(4, 6), weight_decay=0.0),
        {"inputs": IMAGE, "targets": LABEL},
    ),
    "shake_shake": Case(  # what it draws is tested in test_shake_shake.py
        ShakeShake,
        image_hparams.shakeshake_small().replace(
            hidden_size=4, num_hidden_layers=8, forward_mixing="even", backward_mixing="even", weight_decay=0.0
        ),
        {"inputs": IMAGE, "targets": LABEL},
    ),
    "xception": Case(
        Xception,
        image_hparams.xception_tiny().replace(hidden_size=6, num_hidden_layers=1, dropout=0.0),
        {"inputs": IMAGE, "targets": LABEL},
    ),
    "revnet": Case(
        Revnet,
        image_hparams.revnet_38_cifar().replace(
            num_channels=(4,), num_layers_per_block=(1,), num_channels_init_block=6, weight_decay=0.0
        ),
        {"inputs": IMAGE, "targets": LABEL},
    ),
    "alexnet": Case(
        Alexnet,
        image_hparams.alexnet_small().replace(filter_sizes=(3, 4), dense_sizes=(7,), dropout=0.0),
        {"inputs": IMAGE, "targets": LABEL},
    ),
}  # fmt: skip
