"""constraints.txt pins what the extras of pyproject.toml need, and what the tests run with."""

from __future__ import annotations

import importlib.metadata
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.policy.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
INSTALLED_EXTRAS = ("train", "serve", "dev", "bench")


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line.partition("#")[0].strip() for line in lines]
    found = [requirement.partition("==") for requirement in requirements if requirement]
    return {canonicalize_name(name): Version(version) for name, _, version in found}


def everything_needed(requirements: list[str]) -> set[str]:
    """The names of what is installed because of `requirements`, direct and transitive."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [(Requirement(need), wanted) for need in needs for wanted in ("", *requirement.extras)]
    return found


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_every_requirement_has_a_pin_that_satisfies_it(extra: str | None) -> None:
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(text)
        pin = pins().get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} has no pin"
        assert pin in requirement.specifier, f"{requirement} but the pin is {pin}"


def test_what_they_bring_along_is_pinned_too() -> None:
    direct = [*PROJECT["dependencies"], *(need for extra in INSTALLED_EXTRAS for need in EXTRAS[extra])]
    # torch pins the packages of its CUDA build itself.
    needed = {name for name in everything_needed(direct) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert "numpy" in needed
    assert needed - set(pins()) == set()


def test_no_pin_names_a_build() -> None:
    """`+cpu` would shut out every other build of torch."""
    assert [name for name, pin in pins().items() if pin.local] == []


def test_the_two_builds_of_onnxruntime_are_never_installed_together() -> None:
    builds = {"onnxruntime", "onnxruntime-gpu", "onnxruntime-training-cpu"}
    for extra, requirements in EXTRAS.items():
        assert len(builds & {canonicalize_name(Requirement(text).name) for text in requirements}) <= 1, extra
