"""Reversible layers: the same numbers as ordinary ones, with memory that does not grow with their number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.image_hparams import revnet_38_cifar
from t2tdeploy.models.revnet import ReversibleLayer, ReversibleLayers, Revnet

HPARAMS = revnet_38_cifar().replace(num_channels=(6, 4), num_channels_init_block=6, num_layers_per_block=(2, 1))
FEATURES = {
    "inputs": FeatureSpec("inputs", Modality.IMAGE, shape=(8, 7, 3)),
    "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=("a", "b", "c")),
}


def batch(seed: int = 0, examples: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (examples, 8, 7, 3), generator=generator, dtype=torch.uint8)
    return {"inputs": images, "targets": torch.arange(examples) % 3}


def trained(*, reversible: bool, bottleneck: bool) -> Revnet:
    """With the gradients of one batch, after two others."""
    torch.manual_seed(3)
    model = Revnet(HPARAMS.replace(reversible=reversible, bottleneck=bottleneck), FEATURES).train()
    for seed in range(3):
        model.zero_grad()
        model.loss(model(batch(seed)), batch(seed), label_smoothing=0.0).numerator.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad
    return model


@pytest.mark.parametrize("bottleneck", [False, True])
def test_gradients_and_statistics_are_those_of_ordinary_layers(bottleneck: bool) -> None:
    found, expected = (trained(reversible=reversible, bottleneck=bottleneck) for reversible in (True, False))
    for (name, mine), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)
    for (name, mine), theirs in zip(found.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_a_layer_is_undone() -> None:
    torch.manual_seed(0)
    layer = ReversibleLayer(4, 4, bottleneck=False).eval()
    x = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    y = tuple(half.detach() for half in layer(*x))
    assert (y[0] - x[0]).abs().max() > 0.1
    recovered, _, _ = layer.reverse((y[0], y[1]), (torch.ones_like(y[0]), torch.ones_like(y[1])))
    for mine, given in zip(recovered, x, strict=True):
        torch.testing.assert_close(mine, given, rtol=1e-5, atol=1e-5)


def kept_bytes(layers: int, *, reversible: bool) -> int:
    """What autograd keeps from the forward pass for the backward pass, parameters aside."""
    torch.manual_seed(0)
    module = ReversibleLayers([ReversibleLayer(4, 4, bottleneck=False) for _ in range(layers)], reversible=reversible)
    own = {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x1, x2 = (torch.randn(3, 4, 16, 16, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x1, x2)
    assert y[0].requires_grad
    return sum(kept.values())


def test_memory_does_not_grow_with_the_layers() -> None:
    assert kept_bytes(1, reversible=True) == kept_bytes(8, reversible=True)
    assert kept_bytes(8, reversible=False) > 6 * kept_bytes(1, reversible=False)
    assert kept_bytes(8, reversible=False) > 20 * kept_bytes(8, reversible=True)
