"""Faults of an evaluation's export are one silent error, as those of a training graph are (test_joint.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.errors import DifferentiationError, InputError
from t2tdeploy.export.quiet import quiet_exporter
from t2tdeploy.training.graph.faults import evaluation_faults
from t2tdeploy.training.graph.forward import forward_graph
from t2tdeploy.training.graph.joint import GraphNames


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.function(x),)


def exported(function: Callable[[Tensor], Tensor]) -> None:
    module = nn.Sequential(Applied(function))
    with quiet_exporter(), evaluation_faults(module):
        forward_graph(module, [torch.randn(3, 4)], [{0: Dim("batch")}], GraphNames(("x",), ("y",)))


def raises_from(x: Tensor) -> Tensor:
    try:
        return {}[x]
    except KeyError as error:
        raise ValueError("no width is configured") from error


def refuses(x: Tensor) -> Tensor:
    raise InputError("a table is missing", path="table.csv")


@pytest.mark.parametrize(
    ("function", "operator", "reason"),
    [
        pytest.param(lambda x: torch.linalg.svd(x).S, "aten._linalg_svd.default", "no translation", id="untranslated"),
        pytest.param(lambda x: x if x.sum() > 0 else -x, None, "depends on the values", id="data-dependent"),
        pytest.param(lambda x: x @ torch.ones(3, 3), None, "same reduction dim", id="sizes"),
        pytest.param(raises_from, None, "no width is configured", id="raised from another"),
    ],
)
def test_what_cannot_be_exported(
    function: Callable[[Tensor], Tensor],
    operator: str | None,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(DifferentiationError, match=reason) as caught:
        exported(function)
    assert caught.value.operator == operator
    assert "\n" not in caught.value.message
    if operator is None:
        assert caught.value.module_path == "0"
        assert __file__ in caught.value.message
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


def test_errors_of_ours_pass() -> None:
    with pytest.raises(InputError, match="a table is missing"):
        exported(refuses)
