"""What changes the graph changes the key; nothing else does, in any process."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from t2tdeploy.models.transformer import Transformer
from t2tdeploy.training.graph.graph_key import graph_key
from tests.models.tiny import HPARAMS, features

PROGRAM = """
import sys; sys.path.insert(0, sys.argv[1])
from tests.training.graph.test_graph_key import key_of
print(key_of({model}))
"""
MODEL = """
import torch
from torch import nn
from . import helpers
from .constants import FACTOR

class Doubler(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def forward(self, x):
        return helpers.scale(x * self.weight) * FACTOR
"""
HELPERS = "def scale(x):\n    return x * 2\n"


def key_of(model: nn.Module | None = None, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "builder": "portable",
        "hparams": HPARAMS,
        "features": features(20),
        "options": {"precision": "float32", "device": "cpu"},
    }
    return graph_key(model=model or Transformer(HPARAMS, features(20)), **(arguments | changes))


def key_in_another_process(model: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONHASHSEED": "random", "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(model=model), folder],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return result.stdout.strip()


def write_package(folder: Path, model: str = MODEL, helpers: str = HELPERS, factor: int = 1) -> Path:
    package = folder / "users_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(model)
    (package / "helpers.py").write_text(helpers)
    (package / "constants.py").write_text(f"FACTOR = {factor}\n")
    return folder


def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    assert key_in_another_process("None", tmp_path) == key_of()


def test_sources_decide_and_paths_do_not(tmp_path: Path) -> None:
    """The model's file, a function that it calls and a constant that it imports."""
    folders = {
        "same": write_package(tmp_path / "a"),
        "elsewhere": write_package(tmp_path / "b"),
        "model": write_package(tmp_path / "c", model=MODEL.replace("x * self", "x + self")),
        "helper": write_package(tmp_path / "d", helpers=HELPERS.replace("2", "3")),
        "constant": write_package(tmp_path / "e", factor=2),
    }
    model = "__import__('users_package.model').model.Doubler()"
    keys = {name: key_in_another_process(model, folder) for name, folder in folders.items()}
    assert keys["same"] == keys["elsewhere"]
    assert len(set(keys.values())) == 4


def test_our_own_sources_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(nn.Linear(2, 3))
    module = importlib.import_module("t2tdeploy.training.graph.graph_key")
    ours = {"training/graph/graph_key.py", "training/precision.py", "models/modalities.py"}
    ours |= {f"export/{name}.py" for name in ("mistranslated", "naming", "quick", "undecomposed", "vectors")}
    assert ours <= set(module._our_sources())
    monkeypatch.setattr(module, "_our_sources", lambda: {"models/modalities.py": "changed"})
    assert key_of(nn.Linear(2, 3)) != before


def test_versions_of_the_exporters_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of()
    true = importlib.metadata.version
    for package in ("torch", "onnx", "onnxscript", "onnxruntime-training-cpu"):
        changed = {package: "99.0"}
        with monkeypatch.context() as patch:
            patch.setattr("importlib.metadata.version", lambda name, changed=changed: changed.get(name) or true(name))
            assert key_of() != before, package


@pytest.mark.parametrize(
    "changes",
    [
        {"builder": "onnxruntime-training"},
        {"hparams": HPARAMS.replace(label_smoothing=0.2)},
        {"hparams": HPARAMS.replace(filter_size=64)},
        {"hparams": HPARAMS.replace(precision="bfloat16")},
        {"features": features(21)},
        {"features": features(20, joint=False)},
        {"options": {"precision": "float32", "device": "cuda"}},
        {"options": {"precision": "float32"}},
    ],
)
def test_what_was_asked_for_decides(changes: dict[str, Any]) -> None:
    assert key_of(**changes) != key_of()


def test_the_recipe_outside_the_graph_does_not() -> None:
    other = HPARAMS.replace(optimizer="adamw", weight_decay=0.1, learning_rate_constant=1.0, batch_size=64, beam_size=1)
    assert key_of(hparams=other) == key_of()


def test_values_of_parameters_and_buffers_do_not() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = key_of(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    assert key_of(model) == before


class Keeper(nn.Module):
    """Keeps what it is given, in attributes that a graph may contain."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept
        self.itself = [self]


def double(x: float, factor: float = 2.0) -> float:
    return x * factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, 0.2),
        (1, 1.0),
        (None, False),
        ("relu", "gelu"),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {1, 3}),
        (torch.float32, torch.float16),
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default),
        (torch.relu, torch.sigmoid),
        (double, key_of),
        (functools.partial(double, factor=2.0), functools.partial(double, factor=3.0)),
        (HPARAMS, HPARAMS.replace(optimizer="sgd")),
        (nn.Linear(2, 3), nn.Linear(2, 4)),
    ],
)
def test_what_a_module_keeps_decides(one: Any, other: Any) -> None:
    assert key_of(Keeper(one)) == key_of(Keeper(one))
    assert key_of(Keeper(one)) != key_of(Keeper(other))


def multiplier(factor: float) -> Callable[[float], float]:
    return lambda x: x * factor


def test_the_variables_of_a_closure_decide() -> None:
    assert key_of(Keeper(multiplier(2.0))) == key_of(Keeper(multiplier(2.0)))
    assert key_of(Keeper(multiplier(2.0))) != key_of(Keeper(multiplier(3.0)))


def frozen(model: nn.Sequential) -> nn.Module:
    model[0].weight.requires_grad_(False)
    return model


def tied(model: nn.Sequential) -> nn.Module:
    model[1].weight = model[0].weight
    return model


def half(model: nn.Sequential) -> nn.Module:
    return model.half()


def hooked(model: nn.Sequential) -> nn.Module:
    model.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def evaluating(model: nn.Sequential) -> nn.Module:
    return model.eval()


def test_the_structure_decides() -> None:
    changes = [lambda model: model, frozen, tied, half, hooked, evaluating]
    keys = {key_of(change(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))) for change in changes}
    assert len(keys) == len(changes)


def test_a_class_without_source_never_has_the_same_key() -> None:
    cls = type("Typed", (nn.Module,), {"__module__": "typed_at_a_prompt"})
    assert key_of(cls()) != key_of(cls())
