"""A graph that leaves padding out finds the tokens itself, and computes what torch computes with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from t2tdeploy.errors import DifferentiationError, UserError
from t2tdeploy.features import PAD_ID
from t2tdeploy.models.modalities import LossTerms
from t2tdeploy.models.model import Batch
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.training.graph.build import build_training_graph
from t2tdeploy.training.graph.environment import ONNXRUNTIME_TRAINING, PORTABLE
from t2tdeploy.training.graph.manifest import MaskSpec, NoiseSpec
from t2tdeploy.training.graph.obtain import obtain_training_graph
from t2tdeploy.training.graph.packed import PackedText, find_tokens, packed_features
from t2tdeploy.training.graph.step import TrainingStep
from t2tdeploy.training.graph.target import Device, Target
from t2tdeploy.training.graph.training_graph import TrainingGraph
from tests.models.tiny import HPARAMS, features, padded, places_of, random_sources
from tests.training.graph.parity import Scaled, assert_equal, autograd, masks_of, run, tensors

VOCAB, SMOOTHING = 20, 0.1
ONE_LAYER = HPARAMS.replace(num_encoder_layers=1, num_decoder_layers=1)
IDS = {
    "padded": padded(random_sources(VOCAB, 1)),
    "full": torch.ones(4, 3, dtype=torch.int64),
    "a pad within": torch.tensor([[5, 0, 7, 0], [5, 1, 0, 0], [0, 9, 1, 0], [0, 0, 0, 0], [3, 3, 3, 1]]),
    "pads": torch.zeros(2, 3, dtype=torch.int64),
    "one token": torch.ones(1, 1, dtype=torch.int64),
}


def transformer(dropout: float = 0.0) -> Transformer:
    torch.manual_seed(1)
    rates = dict.fromkeys(("dropout", "attention_dropout", "relu_dropout"), dropout)
    return Transformer(ONE_LAYER.replace(**rates), features(VOCAB, joint=False))


@pytest.fixture(scope="module")
def graph() -> TrainingGraph:
    return build_training_graph(transformer(dropout=0.25), label_smoothing=SMOOTHING)


def finder() -> ModelProto:
    """A graph of ids, a mask of their tokens and noise -> places, and the parts of mask and noise that are read."""
    nodes = [helper.make_node("Identity", [read], [read[0]]) for read in ("places", "mask", "noise")]
    nodes[0].input[0] = "ids.places"
    value = helper.make_tensor_value_info
    inputs = [value("ids", TensorProto.INT64, ["b", "n"]), value("ids.places", TensorProto.INT64, ["t"])]
    inputs += [value("mask", TensorProto.UINT8, ["t", 2]), value("noise", TensorProto.FLOAT, ["t", 2])]
    outputs = [value("p", TensorProto.INT64, ["t"]), value("m", TensorProto.UINT8, ["t", 2])]
    outputs.append(value("n", TensorProto.FLOAT, ["t", 2]))
    model = helper.make_model(
        helper.make_graph(nodes, "finder", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    drawn = [
        MaskSpec(name="mask", rate=0.5, shape=("t", 2)),
        NoiseSpec(name="noise", distribution="normal", shape=("t", 2)),
    ]
    changed = find_tokens(model, {"ids": PackedText("ids.places", "t", "b*n")}, drawn)
    assert [spec.shape for spec in changed] == [("b*n", 2)] * 2
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_places_are_those_up_to_the_last_real_token_and_a_pad(ids: Tensor) -> None:
    mask = torch.randint(0, 2, (ids.numel(), 2), dtype=torch.uint8)
    noise = torch.randn(ids.numel(), 2)
    found = run(finder(), {"ids": ids, "mask": mask, "noise": noise})
    count = len(places_of(ids))
    assert found["p"].tolist() == places_of(ids).tolist()
    assert found["m"].tolist() == mask[:count].tolist()
    assert found["n"].tolist() == noise[:count].tolist()


@pytest.mark.parametrize("inputs", ["padded", "a row of pads", "pads"])
@pytest.mark.parametrize("targets", [name for name in IDS if name != "pads"])
def test_loss_and_gradients_are_torch_s_with_padding(graph: TrainingGraph, targets: str, inputs: str) -> None:
    """Also of a source without a token, where attention takes the mean of its pads."""
    model, ids = transformer(dropout=0.25), IDS[targets]
    sources = padded(random_sources(VOCAB, 3, len(ids)))
    sources[{"padded": slice(0), "a row of pads": slice(1), "pads": slice(None)}[inputs]] = PAD_ID
    batch = {"inputs": sources, "targets": ids}
    given = {**tensors(model), **batch, **masks_of(graph.manifest, batch, least=1), "loss_scale": torch.tensor(0.25)}
    found = run(graph.training, given)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Scaled())
    step = TrainingStep(model, label_smoothing=SMOOTHING)
    wanted = autograd(step, (torch.tensor(0.25), *batch.values()), ["scaled", "numerator", "denominator"])
    assert_equal(found, {name.removeprefix("model."): value for name, value in wanted.items() if name != "scaled"})


def test_nothing_is_given_but_the_batch_and_masks_of_its_shape(graph: TrainingGraph) -> None:
    """As many entries of a mask are used as there are tokens; none is drawn for a number that only the graph knows."""
    assert [spec.name for spec in graph.manifest.features] == ["inputs", "targets"]
    batch = {"inputs": padded(random_sources(VOCAB, 3)), "targets": padded(random_sources(VOCAB, 4))}
    masks = masks_of(graph.manifest, batch, least=0)
    given = {**tensors(transformer()), **batch, **masks, "loss_scale": torch.tensor(0.25)}
    expected = run(graph.training, given)
    packed = [spec for spec in graph.manifest.masks if "*" in str(spec.shape[0])]
    assert {spec.shape[0] for spec in packed} == {"batch*inputs_length", "batch*targets_length"}
    for spec in packed:
        count = len(places_of(batch[str(spec.shape[0]).removeprefix("batch*").removesuffix("_length")]))
        changed = masks[spec.name].clone()
        changed[count:] = 1 - changed[count:]
        found = run(graph.training, {**given, spec.name: changed})
        assert all((found[name] == value).all() for name, value in expected.items()), spec.name
        changed[:count] = 1 - changed[:count]
        assert run(graph.training, {**given, spec.name: changed})["numerator"] != expected["numerator"], spec.name


class TwoArguments(nn.Module):
    """A layer that knows nothing of tokens."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + bias.mean()


def test_layers_of_a_subclass_need_not_know_of_tokens() -> None:
    model = WiderTransformer(ONE_LAYER, features(VOCAB))
    model.encoder = nn.ModuleList([TwoArguments()])
    model.decoder[0].self_attention = TwoArguments()
    assert model({"inputs": IDS["padded"], "targets": IDS["padded"]}).isfinite().all()


class WiderTransformer(Transformer):
    """A layer of it may look at several positions."""


class OwnLoss(Transformer):
    packed_features = ("inputs", "targets")

    def loss(self, logits: Tensor, batch: Batch, *, label_smoothing: float) -> LossTerms:
        terms = super().loss(logits, batch, label_smoothing=label_smoothing)
        return LossTerms(terms.numerator * 2, terms.denominator)


@pytest.mark.parametrize("model", [WiderTransformer, OwnLoss])
def test_a_model_that_does_not_say_so_keeps_its_padding(model: type[Transformer]) -> None:
    assert packed_features(transformer(), PORTABLE, Target()) == ("inputs", "targets")
    assert packed_features(model(ONE_LAYER, features(VOCAB)), PORTABLE, Target()) == ()


class Other(Transformer):
    """Its bodies may make anything of what the Transformer's make."""

    packed_features = ("inputs", "targets")

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features)

    def packed_body(self, features: Mapping[str, Tensor], tokens: Mapping[str, Tokens]) -> Any:
        return PACKED[type(self).made](self, super().packed_body(features, tokens), features, tokens)

    made: ClassVar[str]


PACKED: dict[str, Callable[..., Any]] = {
    "dropout by head": lambda model, x, *_: model.dropout(x.view(-1, 2, 8).flatten(0, 1)).view_as(x),
    "padding": lambda model, x, features, _: model.body(features).flatten(0, 1),
    "positions": lambda model, x, features, _: model.body(features),
    "batches of tokens": lambda model, x, *_: x[:, None],
    "half a vector": lambda model, x, *_: x[:, :8],
    "nothing": lambda *_: None,
    "two": lambda model, x, *_: (x, x),
    "a text that is not packed": lambda model, x, features, tokens: tokens["context"].pack(x),
    "twice as much": lambda model, x, *_: 2 * x,
    "pads are seen": lambda model, x, features, tokens: Transformer.packed_body(
        model, {**features, "inputs_mask": torch.ones_like(features["inputs_mask"])}, tokens
    ),
    "a gate that is closed": lambda model, x, *_: x + model.gate * x,
}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("dropout by head", "dropout of [2*targets_tokens, 8]: tokens may only be its first axis"),
        ("padding", "packed_body of Other returned other rows, not [tokens, hidden] of 'targets', hidden = 16"),
        ("positions", "returned a tensor of 3 axes, not [tokens, hidden] of 'targets', hidden = 16"),
        ("batches of tokens", "returned a tensor of 3 axes, not [tokens, hidden]"),
        ("half a vector", "returned vectors of 8 numbers, not [tokens, hidden] of 'targets', hidden = 16"),
        ("nothing", "returned a NoneType, not [tokens, hidden]"),
        ("two", "returned a tuple, not [tokens, hidden]"),
        ("a text that is not packed", "KeyError: 'context'"),
        ("twice as much", "packed_body of Other does not compute what its body does"),
        ("pads are seen", "packed_body of Other does not compute what its body does"),
        ("a gate that is closed", "packed_body of Other does not compute what its body does"),
    ],
)
def test_what_a_packed_body_may_not_do_is_refused(made: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Other, "made", made, raising=False)
    built = Other(ONE_LAYER.replace(dropout=0.25), features(VOCAB))
    built.gate = nn.Parameter(torch.zeros(()))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        build_training_graph(built, label_smoothing=SMOOTHING)
    assert built.training
    if isinstance(caught.value, DifferentiationError):
        assert "--engine torch" in str(caught.value.help)
        assert "leave packed_features out" in str(caught.value.help)


class Narrow(WiderTransformer):
    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features)[..., :8]


class NarrowEvaluation(Transformer):
    packed_features = ("inputs", "targets")

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features)[..., :8]

    def packed_body(self, features: Mapping[str, Tensor], tokens: Mapping[str, Tokens]) -> Tensor:
        return super().packed_body(features, tokens)


class Shifted(WiderTransformer):
    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features)[:, 1:]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Narrow, "body of Narrow returned vectors of 8 numbers"),
        (NarrowEvaluation, "body of NarrowEvaluation returned vectors of 8 numbers"),
        (Shifted, "body of Shifted returned other rows, not [batch, length, hidden] of 'targets', hidden = 16"),
    ],
)
def test_a_body_that_returns_what_cannot_be_is_one_error(
    model: type[Transformer], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    built = model(ONE_LAYER, features(VOCAB))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        build_training_graph(built, label_smoothing=SMOOTHING)
    # With torch or without packing the body would still be wrong.
    assert not re.search("--engine torch|packed_features", str(caught.value.help))
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match=re.escape(message)):
        built({"inputs": IDS["padded"], "targets": IDS["padded"]})


class FewPositions(Transformer):
    """Learned positions, of which there are eight: torch.export looks up no number beyond them."""

    packed_features = ("inputs", "targets")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.position = nn.Embedding(8, 16)

    def bottom(self, batch: Batch) -> dict[str, Tensor]:
        found = super().bottom(batch)
        return {**found, "targets": found["targets"] + self.position(torch.arange(batch["targets"].size(1)))}

    body, packed_body = Transformer.body, Transformer.packed_body


def test_the_example_that_bodies_are_compared_by_is_short() -> None:
    graph = build_training_graph(FewPositions(ONE_LAYER, features(VOCAB)), label_smoothing=SMOOTHING)
    assert "position.weight" in {spec.name for spec in graph.manifest.parameters}


class NoExample(FewPositions):
    packed_features = ("inputs", "targets")
    body, packed_body = Transformer.body, Transformer.packed_body

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.position = nn.Embedding(2, 16)


def test_what_cannot_be_computed_of_an_example_is_one_error() -> None:
    with pytest.raises(DifferentiationError, match=r"cannot be computed of an example.*index out of range"):
        build_training_graph(NoExample(ONE_LAYER, features(VOCAB)), label_smoothing=SMOOTHING)


class DataDependent(Transformer):
    packed_features = ("inputs", "targets")
    body, packed_body = Transformer.body, Transformer.packed_body

    def bottom(self, batch: Batch) -> dict[str, Tensor]:
        assert batch["inputs"].sum() > 0
        return super().bottom(batch)


def test_to_compute_padding_is_advised_where_that_helps() -> None:
    with pytest.raises(DifferentiationError, match="depends on the values") as caught:
        build_training_graph(DataDependent(ONE_LAYER, features(VOCAB)), label_smoothing=SMOOTHING)
    assert caught.value.help == "train with --engine torch, which needs no graph"


@pytest.mark.parametrize(
    "named",
    [
        ("inputs",),
        "targets",
        ("context", "targets"),
        ["inputs", "targets"],
        (["inputs"], "targets"),
        ("inputs", "targets", "inputs"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_packed_features_are_texts_and_the_target_among_them(
    named: object, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the model is trained: a graph for GPUs leaves nothing out."""
    monkeypatch.setattr(Transformer, "packed_features", named)
    with pytest.raises(UserError, match="not a tuple of texts, each once, 'targets' among them"):
        packed_features(transformer(), PORTABLE, Target(device))


def test_texts_of_any_name_can_be_packed() -> None:
    """Also if torch takes two of them for one axis, or a text is called as the places of another."""
    texts = {name: features(VOCAB)["inputs"] for name in ("a b", "a_20_b", "targets.places", "inputs")}

    class ManyTexts(Transformer):
        packed_features = ("inputs", "targets")
        body, packed_body = Transformer.body, Transformer.packed_body

    without_dropout = ONE_LAYER.replace(dropout=0.0, attention_dropout=0.0, relu_dropout=0.0)
    model = ManyTexts(without_dropout, {**texts, "targets": features(VOCAB)["targets"]})
    graph = build_training_graph(model, label_smoothing=SMOOTHING)
    names = [spec.name for spec in graph.manifest.features]
    assert names == [*texts, "targets"]
    batch = {name: padded(random_sources(VOCAB, seed, 4)) for seed, name in enumerate(names)}
    found = run(graph.training, {**tensors(model), **batch, "loss_scale": torch.tensor(1.0)})
    _, numerator, _ = TrainingStep(model, label_smoothing=SMOOTHING)(torch.tensor(1.0), *batch.values())
    assert found["numerator"] == pytest.approx(numerator.item(), rel=1e-5)


class OwnBody(Transformer):
    packed_features = ("inputs", "targets")

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features) * 2


def test_both_bodies_are_of_one_class() -> None:
    with pytest.raises(UserError, match="its body and packed_body are of different classes"):
        packed_features(OwnBody(ONE_LAYER, features(VOCAB)), PORTABLE, Target())


def test_a_kept_graph_is_found_by_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def key(**options: object) -> str:
        asked.append(options["options"])
        raise UserError("no graph is needed")

    monkeypatch.setattr("t2tdeploy.training.graph.obtain.graph_key", key)
    for named in (("inputs", "targets"), ()):
        monkeypatch.setattr(Transformer, "packed_features", named)
        with pytest.raises(UserError, match="no graph"):
            obtain_training_graph(transformer(), ONE_LAYER, directory=tmp_path)
    assert asked[0] != asked[1]


@pytest.mark.parametrize(("builder", "target"), [(ONNXRUNTIME_TRAINING, Target()), (PORTABLE, Target("cuda"))])
def test_other_graphs_keep_padding(builder: str, target: Target) -> None:
    """To know how many tokens there are, a GPU would have to wait; and the other builder takes gradients of its own."""
    assert packed_features(transformer(), builder, target) == ()
