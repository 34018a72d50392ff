"""Laws of all models for images; tests/training/test_fixed_outputs.py compares their engines."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from t2tdeploy.errors import SettingsError, UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import HParams
from t2tdeploy.models import image_hparams as sets
from t2tdeploy.models.alexnet import Alexnet
from t2tdeploy.models.model import Model
from t2tdeploy.models.resnet import Resnet
from t2tdeploy.models.revnet import Revnet
from t2tdeploy.models.shake_shake import ShakeShake
from t2tdeploy.models.xception import Xception

from .labelled import CASES, random_batch

IMAGE_MODELS = [name for name, case in CASES.items() if case.features["targets"].modality is Modality.CLASS_LABEL
                and case.model in (Alexnet, Resnet, Revnet, ShakeShake, Xception)]  # fmt: skip


def features(*shape: int, classes: int = 10) -> dict[str, FeatureSpec]:
    return {
        "inputs": FeatureSpec("inputs", Modality.IMAGE, shape=shape),
        "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=tuple(map(str, range(classes)))),
    }


def parameters(model: type[Model], hparams: HParams, *shape: int, classes: int = 10) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model(hparams, features(*shape, classes=classes)).parameters())


# As published: of the first three in torchvision's documentation; of the others, in millions, in their papers.
SIZES = [
    (Resnet, sets.resnet_50, (224, 224, 3), 1000, 25_557_032, 0),
    (Resnet, sets.resnet_34, (224, 224, 3), 1000, 21_797_672, 0),
    (Resnet, sets.resnet_18, (224, 224, 3), 1000, 11_689_512, 0),
    (Resnet, sets.resnet_cifar_32, (32, 32, 3), 10, 460_000, 10_000),
    (ShakeShake, sets.shakeshake_small, (32, 32, 3), 10, 2_900_000, 50_000),
    (ShakeShake, sets.shakeshake_big, (32, 32, 3), 10, 26_200_000, 100_000),
    (Revnet, sets.revnet_38_cifar, (32, 32, 3), 10, 460_000, 15_000),
    (Revnet, sets.revnet_110_cifar, (32, 32, 3), 10, 1_730_000, 10_000),
    (Revnet, sets.revnet_104, (224, 224, 3), 1000, 45_200_000, 250_000),
]


@pytest.mark.parametrize(("model", "make", "shape", "classes", "published", "tolerance"), SIZES)
def test_named_sets_have_the_published_sizes(
    model: type[Model], make: object, shape: tuple[int, ...], classes: int, published: int, tolerance: int
) -> None:
    assert callable(make)
    assert abs(parameters(model, make(), *shape, classes=classes) - published) <= tolerance


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_image_is_judged_the_same_alone_and_in_a_batch(name: str) -> None:
    case = CASES[name]
    model = case.make().eval()
    batch = {key: torch.from_numpy(value) for key, value in random_batch(case.features, 7).items()}
    together = model(batch)
    assert together.shape == (7, len(case.features["targets"].classes))
    alone = torch.cat([model({key: value[row : row + 1] for key, value in batch.items()}) for row in range(7)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    assert (together[1:] - together[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_parameter_learns(name: str) -> None:
    """But for those behind a scale that begins at 0; there the scale does."""
    case = CASES[name]
    model = case.make().train()
    batch = {key: torch.from_numpy(value) for key, value in random_batch(case.features, 7).items()}
    terms = model.loss(model(batch), batch, label_smoothing=0.0)
    terms.numerator.backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        branch = model.get_submodule(path.rpartition(".")[0])
        stopped = isinstance(model, Resnet) and ".branch." in path and not parameter.grad.any()
        assert parameter.grad.any() or stopped, (path, type(branch))
    if isinstance(model, Resnet):
        scales = [part.weight for part in model.modules() if isinstance(part, nn.BatchNorm2d) and not part.weight.any()]
        assert len(scales) == len(model.blocks)
        assert all(scale.grad is not None and scale.grad.any() for scale in scales)


@pytest.mark.parametrize(
    ("make", "side"), [(sets.resnet_small, 8), (sets.resnet_small, 29), (sets.resnet_18, 33), (sets.resnet_18, 64)]
)
def test_a_residual_network_takes_images_of_any_size(make: object, side: int) -> None:
    assert callable(make)
    with torch.device("meta"):
        model = Resnet(make(), features(side, side + 3, 1))
        logits = model({"inputs": torch.zeros(2, side, side + 3, 1, dtype=torch.uint8)})
    assert logits.shape == (2, 10)


def test_large_images_are_made_smaller_first() -> None:
    """To a sixteenth of their sides, so that the blocks are affordable."""
    hparams = sets.xception_tiny()
    with torch.device("meta"):
        small, large = (Xception(hparams, features(side, side, 3)) for side in (64, 224))
        maps = [model.first(torch.zeros(1, 3, side, side)).shape[2:] for model, side in ((small, 64), (large, 224))]
    assert maps == [(64, 64), (14, 14)]


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 6, 11])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_plain_stack_takes_kernels_of_any_size(kernel_size: int, stride: int) -> None:
    changes = {"kernel_sizes": (kernel_size, 3), "strides": (stride, 1), "pooled": (False, True)}
    hparams = sets.alexnet_small().replace(**changes)
    for height, width in ((8, 9), (15, 10)):
        with torch.device("meta"):
            logits = Alexnet(hparams, features(height, width, 1))(
                {"inputs": torch.zeros(2, height, width, 1, dtype=torch.uint8)}
            )
        assert logits.shape == (2, 10)


def test_images_that_pooling_makes_nothing_of_are_explained() -> None:
    with pytest.raises(UserError, match="3 × 3 pixels are too small for alexnet"):
        Alexnet(sets.alexnet_small(), features(3, 3, 1))
    with pytest.raises(UserError, match="1 × 9 pixels are too small for alexnet"):
        Alexnet(sets.alexnet_small().replace(kernel_sizes=(3, 4), pooled=(True, False)), features(1, 9, 1))


@pytest.mark.parametrize(
    ("model", "make", "side", "help"),
    [
        (Resnet, sets.resnet_50, 32, "large_images=false"),
        (Resnet, sets.resnet_small, 4, "fewer stages"),
        (Revnet, sets.revnet_104, 32, "large_images=false"),
        (ShakeShake, sets.shakeshake_small, 4, "larger images"),
    ],
)
def test_images_of_which_a_single_pixel_would_be_left_are_refused(
    model: type[Model], make: object, side: int, help: str
) -> None:
    """A batch of one such image has no variance: engine torch would fail, engine ort would compute no number."""
    assert callable(make)
    with pytest.raises(UserError, match=f"images of {side} × {side} pixels are too small") as raised:
        model(make(), features(side, side, 1))
    assert help in str(raised.value.help)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (sets.resnet_18, {"layer_sizes": (2, 2)}, "filter_sizes has 5 sizes"),
        (sets.shakeshake_small, {"num_hidden_layers": 27}, "multiple of 6"),
        (sets.xception_base, {"kernel_size": 4}, "must be odd"),
        (sets.revnet_104, {"num_channels": (64, 128)}, "num_layers_per_block 4"),
        (sets.revnet_104, {"num_channels_init_block": 33}, "must be even"),
        (sets.alexnet_base, {"strides": (1, 1)}, "one entry per convolution .* strides 2"),
        (sets.alexnet_base, {"dense_sizes": ()}, "dense_sizes"),
    ],
)
def test_sizes_that_do_not_fit_are_explained(make: object, changes: dict[str, object], message: str) -> None:
    assert callable(make)
    with pytest.raises(SettingsError, match=message):
        make().replace(**changes)
