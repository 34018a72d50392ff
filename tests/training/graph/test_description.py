"""What a factory or a command line chose is in the key of a graph, though one file and one name have all choices."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import re
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.model_fn import function_model
from t2tdeploy.training.graph import description
from tests.training.graph.test_graph_key import Keeper, key_in_another_process, key_of

SETTINGS = argparse.Namespace(width=1, names={"a", "b", "c", "d"})
MODULE = "tests.training.graph.test_description"


def keeper_of(model_fn: Any) -> nn.Module:
    """A module of the class of a model function: to make the model itself takes a problem."""
    return Keeper(function_model(model_fn))


def made(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def my_model(features: Any, labels: Any, mode: Any, params: Any) -> Any:
        return activation(features["x"])

    return my_model


def branch(first: bool) -> Callable[[Tensor], Tensor]:
    if first:

        def f(x: Tensor) -> Tensor:
            return x.relu()
    else:

        def f(x: Tensor) -> Tensor:
            return x.tanh()

    return f


def sub(activation: Callable[[Tensor], Tensor], factor: int = 1) -> nn.Module:
    class Base(nn.Module):
        FACTOR = factor

    class Sub(Base):
        ACTIVATION = staticmethod(activation)

    return Sub()


class Pair(NamedTuple):
    one: int
    two: int = 2


@dataclass
class Point:
    x: int
    tags: frozenset[str] = frozenset({"a", "b", "c"})


class Abstract(ABC):
    @abstractmethod
    def run(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...


class Recipe(BasicHParams):
    depth: int = 1


class Empty:
    """Has no slots, so that all that come of it have a dictionary."""


@dataclass(slots=True)
class SlottedPoint(Empty):
    x: int


class Several(list[int]):
    def __init__(self, items: list[int], name: str) -> None:
        super().__init__(items)
        self.name = name


def leaky(slope: float) -> Callable[..., Any]:
    return functools.partial(functional.leaky_relu, negative_slope=slope)


def made_by_exec(expression: str) -> Callable[..., Any]:
    """A function of no module."""
    variables: dict[str, Any] = {}
    exec(f"def f(x, labels, mode, params):\n    return {expression}", variables)
    found: Callable[..., Any] = variables["f"]
    return found


class Scale:
    __slots__ = ("factor",)

    def __init__(self, factor: int) -> None:
        self.factor = factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: keeper_of(made(torch.relu)), lambda: keeper_of(made(torch.tanh))),
        (lambda: Keeper(lambda x: x.relu()), lambda: Keeper(lambda x: x.tanh())),
        (lambda: Keeper(lambda x: x * 2), lambda: Keeper(lambda x: x * 3)),
        (lambda: Keeper(lambda x: lambda: x * 2), lambda: Keeper(lambda x: lambda: x * 3)),
        (lambda: Keeper(branch(True)), lambda: Keeper(branch(False))),
        (lambda: sub(torch.relu), lambda: sub(torch.tanh)),
        (lambda: sub(torch.relu, 1), lambda: sub(torch.relu, 2)),
        (lambda: Keeper(Scale(1)), lambda: Keeper(Scale(2))),
        (lambda: Keeper(SlottedPoint(1)), lambda: Keeper(SlottedPoint(2))),
        (lambda: Keeper(deque([1])), lambda: Keeper(deque([7]))),
        (lambda: Keeper(defaultdict(int)), lambda: Keeper(defaultdict(list))),
        (lambda: Keeper(Several([1], "a")), lambda: Keeper(Several([1], "b"))),
        (lambda: Keeper(torch.eye(2).to_sparse()), lambda: Keeper(torch.ones(2, 2).to_sparse())),
        (lambda: keeper_of(leaky(0.1)), lambda: keeper_of(leaky(0.2))),
    ],
)
def test_what_a_factory_chose_decides(one: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> None:
    assert key_of(one()) == key_of(one())
    assert key_of(one()) != key_of(other())


KINDS = [Pair(1), Point(1), Abstract, Recipe(), Scale(1), re.compile("a"), logging.getLogger(MODULE), {"x", "y", "z"}]


def wide(x: Tensor) -> Tensor:
    return x * SETTINGS.width if "a" in {"a", "b", "c", "d"} else x


def test_a_global_variable_decides_that_the_code_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(Keeper(wide))
    monkeypatch.setattr(SETTINGS, "width", 2)
    assert key_of(Keeper(wide)) != before


def test_a_variable_of_a_module_within_a_package_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept_here").mkdir()
    (tmp_path / "kept_here" / "__init__.py").touch()
    (tmp_path / "kept_here" / "settings.py").write_text("WIDTH = 1\n")
    source = "import kept_here.settings\ndef f(x):\n    return x * kept_here.settings.WIDTH\n"
    (tmp_path / "kept_model.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    model, settings = (importlib.import_module(name) for name in ("kept_model", "kept_here.settings"))
    before = key_of(Keeper(model.f))
    assert key_of(Keeper(model.f)) == before
    monkeypatch.setattr(settings, "WIDTH", 2)
    assert key_of(Keeper(model.f)) != before


data = 1


def of_attribute(x: Tensor) -> Tensor:
    return x.data


def test_a_global_variable_that_the_code_does_not_read_is_no_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though an attribute has its name."""
    before = key_of(Keeper(of_attribute))
    monkeypatch.setitem(globals(), "data", 2)
    assert key_of(Keeper(of_attribute)) == before


def test_libraries_are_known_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where pip installs for one user, or a distribution."""
    monkeypatch.setattr(description, "_LIBRARIES", ())
    assert description.library_file("torch") is not None
    assert description.library_file("tests") is None


def test_a_function_of_no_module_has_a_key_of_its_own() -> None:
    assert key_of(keeper_of(made_by_exec("x.relu()"))) != key_of(keeper_of(made_by_exec("x.tanh()")))


def test_code_that_was_moved_has_its_key() -> None:
    definition = "def f(x):\n    return x.relu()\n"
    keys = set()
    for text, file in ((definition, "a.py"), (f"\n\n{definition}", "b.py")):
        variables: dict[str, Any] = {"__name__": __name__}
        exec(compile(text, file, "exec"), variables)
        keys.add(key_of(Keeper(variables["f"])))
    assert len(keys) == 1


@pytest.mark.parametrize(
    "model", ["sub(m.torch.relu)", "keeper_of(m.made(m.torch.relu))", "Keeper(m.wide)", "Keeper(m.KINDS)"]
)
def test_keys_are_the_same_in_every_process(model: str, tmp_path: Path) -> None:
    """Each has another order of sets."""
    source = f"(lambda m: m.{model})(__import__('importlib').import_module('{MODULE}'))"
    assert len({key_in_another_process(source, tmp_path) for _ in range(2)}) == 1


def test_what_nobody_can_describe_never_has_the_same_key() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    assert key_of(Keeper(numbers())) != key_of(Keeper(numbers()))
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert key_of(Keeper(deep)) != key_of(Keeper(deep))


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def test_what_contains_itself_or_is_shared_a_lot_is_described() -> None:
    shared: list[Any] = [even, odd]
    for _ in range(60):
        shared = [shared, shared]
    assert key_of(Keeper(shared)) == key_of(Keeper(shared))


def test_arguments_of_a_partial_model_function_decide() -> None:
    keys = {key_of(keeper_of(functools.partial(wide, x=x))) for x in (1, 2, 2)}
    assert len(keys) == 2
