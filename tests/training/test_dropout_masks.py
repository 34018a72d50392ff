"""Dropout masks: the rate is right, no two are the same, and they continue from a saved state bit for bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2tdeploy.training.dropout_masks import DropoutMasks
from t2tdeploy.training.graph.manifest import MaskSpec

CPU = torch.device("cpu")
AXES = {"batch": 41, "length": 37}


def masks(*rates: float, seed: int = 1) -> DropoutMasks:
    specs = [MaskSpec(name=f"dropout_{i}", rate=rate, shape=("batch", "length", 11)) for i, rate in enumerate(rates)]
    made = DropoutMasks(specs, device=CPU)
    made.seed(seed)
    return made


def drawn(masks: DropoutMasks, axes: dict[str, int] = AXES) -> dict[str, Tensor]:
    """Copies, which later draws leave alone."""
    return {name: mask.clone() for name, mask in masks.draw(axes).items()}


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_an_element_is_dropped_at_the_rate_whatever_its_neighbours_are(rate: float) -> None:
    mask = torch.cat([drawn(of)["dropout_0"].flatten() for of in [masks(rate)] for _ in range(12)])
    assert mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) == {0, 1}
    dropped = (mask == 0).double()
    for pairs in (dropped, *(dropped[lag:] * dropped[:-lag] for lag in (1, 2, 4))):
        expected = rate if pairs is dropped else rate**2
        # Products of neighbours are not independent of each other: 2 for the wider spread.
        sigma = math.sqrt(2 * expected * (1 - expected) / len(pairs))
        assert abs(pairs.mean().item() - expected) < 4 * sigma + 2**-16


def test_a_rate_of_nothing_drops_nothing() -> None:
    assert drawn(masks(0.0))["dropout_0"].all()


def test_masks_of_sites_and_of_draws_differ() -> None:
    of = masks(0.5, 0.5)
    seen = [mask for _ in range(2) for mask in drawn(of).values()]
    agreeing = [(one == other).double().mean().item() for i, one in enumerate(seen) for other in seen[:i]]
    assert all(abs(share - 0.5) < 4 * 0.5 / math.sqrt(seen[0].numel()) for share in agreeing)


def test_shapes_follow_the_axes_and_small_batches_need_no_new_memory() -> None:
    specs = [
        MaskSpec(name="a", rate=0.1, shape=("2*batch", 3)),
        MaskSpec(name="b", rate=0.1, shape=("batch", "length")),
    ]
    of = DropoutMasks(specs, device=CPU)
    large = of.draw({"batch": 5, "length": 7})
    assert {name: tuple(mask.shape) for name, mask in large.items()} == {"a": (10, 3), "b": (5, 7)}
    small = of.draw({"batch": 1, "length": 7})
    assert {name: tuple(mask.shape) for name, mask in small.items()} == {"a": (2, 3), "b": (1, 7)}
    assert small["a"].data_ptr() == large["a"].data_ptr()


def test_a_mask_of_more_than_a_chunk_is_drawn_whole() -> None:
    spec = MaskSpec(name="a", rate=0.5, shape=("size",))
    size = 2**21 + 7
    mask = DropoutMasks([spec], device=CPU).draw({"size": size})["a"]
    for part in mask.split(2**19):
        assert abs(part.double().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(len(part)) or len(part) < 100
    assert not torch.equal(mask[: 2**20], mask[2**20 : 2**21])


@pytest.mark.parametrize("seed", range(8))
def test_masks_continue_from_a_state_in_a_file(seed: int, tmp_path: Path) -> None:
    first, second = masks(0.5, 0.1, seed=seed), masks(0.5, 0.1, seed=99)
    drawn(first)
    save_file({"masks": first.state()}, tmp_path / "state")
    second.set_state(load_file(tmp_path / "state")["masks"])
    assert torch.equal(second.state(), first.state())
    for axes in (AXES, {"batch": 1, "length": 3}):
        expected = drawn(first, axes)
        assert all(torch.equal(mask, expected[name]) for name, mask in drawn(second, axes).items())


def test_a_seed_names_a_sequence() -> None:
    one, same, other = masks(0.5, seed=5), masks(0.5, seed=5), masks(0.5, seed=6)
    expected = drawn(one)["dropout_0"]
    assert torch.equal(drawn(same)["dropout_0"], expected)
    assert not torch.equal(drawn(other)["dropout_0"], expected)


def test_the_first_sequence_follows_torch_s_seed() -> None:
    spec = MaskSpec(name="a", rate=0.5, shape=(100,))
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(DropoutMasks([spec], device=CPU).draw({})["a"].clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
