"""Gradients in flat buffers: the same numbers in the same memory, whatever steps come."""

from __future__ import annotations

import torch
from torch import nn

from t2tdeploy.training.gradient_buckets import GradientBuckets


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in [(3, 4), (5,), (2, 2, 2), ()]]


def backward(of: list[nn.Parameter]) -> None:
    torch.stack([(parameter**2).sum() for parameter in of]).sum().backward()


def test_gradients_are_views_that_tile_the_buffers() -> None:
    mine = parameters()
    buckets = GradientBuckets(mine, bucket_bytes=40)
    assert len(buckets.buffers) > 1
    assert sum(buffer.numel() for buffer in buckets.buffers) == sum(p.numel() for p in mine) + 1
    backward(mine)
    for parameter in mine:
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 2 * parameter.detach())
    for buffer in buckets.buffers:
        buffer.mul_(3)
    assert buckets.extra == 0
    for parameter in mine:
        torch.testing.assert_close(parameter.grad, 6 * parameter.detach())


def test_a_buffer_is_closed_once_it_is_full() -> None:
    sizes = [buffer.numel() for buffer in GradientBuckets(parameters(), bucket_bytes=4).buffers]
    assert sizes == [1, 8, 5, 12 + 1]
    assert [buffer.numel() for buffer in GradientBuckets(parameters()).buffers] == [26 + 1]


def test_clearing_brings_back_the_same_memory() -> None:
    mine = parameters()
    buckets = GradientBuckets(mine)
    pointers = [parameter.grad.data_ptr() for parameter in mine if parameter.grad is not None]
    backward(mine)
    for parameter in mine:
        parameter.grad = None
    buckets.clear()
    assert [parameter.grad.data_ptr() for parameter in mine if parameter.grad is not None] == pointers
    assert all(not buffer.any() for buffer in buckets.buffers)
