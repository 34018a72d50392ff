"""Options of a server from a file, the environment and flags, validated together.

Later ones win: the file (TOML, its keys are the names of the options), variables T2TDEPLOY_SERVE_<OPTION>, flags. Every
fault names where it comes from, also that of a value which another one wins over.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from t2tdeploy.errors import Fault, InputError, SettingsError, UserError, nearest
from t2tdeploy.files import help_to_find
from t2tdeploy.serving.bundle_source import BundleFolders, BundleSource, RepositoryFolder
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.settings import Settings, parse_overrides

VARIABLE_PREFIX = "T2TDEPLOY_SERVE_"

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Layer:
    """Values from one source.

    Args:
        place: how a value of this source is named to people: "{place} {name}".
        values: name of an option -> value; strings are read as the option's type.
        named: name of an option -> what people know it by here; else the name itself.
    """

    place: str
    values: Mapping[str, Any]
    named: Mapping[str, str]

    def name_of(self, option: str) -> str:
        """Where people find the value of `option`, e.g. "serve.toml, port" or "--port"."""
        name = self.named.get(option, option)
        return f"{self.place}, {name}" if self.place else name


def from_file(path: Path) -> Layer:
    """The options in a TOML file.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"the configuration {path} cannot be read: {error.strerror}", path=path, help=help_to_find(path)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        help = 'lines are option = value, text in quotes: port = 50051, host = "0.0.0.0"'
        raise InputError(f"the configuration {path} is not TOML: {error}", path=path, help=help) from None
    return Layer(str(path), values, {})


def from_environment(environment: Mapping[str, str]) -> Layer:
    """The variables T2TDEPLOY_SERVE_<OPTION>, with their options in small letters."""
    found = {name: value for name, value in environment.items() if name.startswith(VARIABLE_PREFIX)}
    options = {name: name.removeprefix(VARIABLE_PREFIX).lower() for name in found}
    return Layer("", {options[name]: value for name, value in found.items()}, {options[name]: name for name in found})


def from_flags(values: Mapping[str, Any], named: Mapping[str, str] | None = None) -> Layer:
    """What the command line gives; None and () are not given.

    Args:
        named: option -> flag; else --option-name.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    flags = {name: f"--{name.replace('_', '-')}" for name in given}
    return Layer("", given, {**flags, **(named or {})})


def from_overrides(text: str) -> Layer:
    """What `--options a=1,b=2` gives.

    Raises:
        SettingsError: it is not of that form, or names an option twice.
    """
    values: dict[str, Any] = {}
    faults = []
    for name, index, value in parse_overrides(text):
        if name in values:
            faults.append(Fault(f"--options {name}", value, "it is given twice"))
        values[name if index is None else f"{name}[{index}]"] = value
    if faults:
        raise SettingsError("the configuration", faults)
    return Layer("", values, {name: f"--options {name}" for name in values})


@dataclass(frozen=True)
class Configured(Generic[S]):
    """Settings, and the layer that each value comes from; those of no layer are defaults."""

    settings: S
    sources: Mapping[str, Layer]


def configure(cls: type[S], layers: list[Layer]) -> Configured[S]:
    """Settings of the values of all layers, later ones winning; "none" leaves an option to its default.

    Raises:
        SettingsError: with every fault of every layer at once.
    """
    faults: list[Fault] = []
    merged: dict[str, Any] = {}
    sources: dict[str, Layer] = {}
    for layer in layers:
        values = {name: None if value == "none" else _listed(cls, name, value) for name, value in layer.values.items()}
        faults += _faults(cls, values, layer)
        merged |= values
        sources |= dict.fromkeys(values, layer)
    if faults:
        raise SettingsError("the configuration", faults, help=_help(cls, faults))
    try:
        settings = cls.create({name: value for name, value in merged.items() if value is not None})
    except SettingsError as error:  # options that do not go together
        raise SettingsError("the configuration", [_placed(cls, fault, sources) for fault in error.faults]) from None
    return Configured(settings, sources)


def _listed(cls: type[Settings], name: str, value: Any) -> Any:
    """A variable holds a list as its items with commas in between."""
    field = cls.model_fields.get(name)
    if isinstance(value, str) and field is not None and "tuple" in str(field.annotation):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _faults(cls: type[Settings], values: Mapping[str, Any], layer: Layer) -> list[Fault]:
    """What is wrong with single values of a layer; rules over several are for all layers together."""
    try:
        cls.create({name: value for name, value in values.items() if value is not None or name not in cls.model_fields})
    except SettingsError as error:
        return [_named(cls, fault, layer) for fault in error.faults if fault.field is not None]
    return []


def _named(cls: type[Settings], fault: Fault, layer: Layer) -> Fault:
    option = (fault.field or "").partition(".")[0]
    near = nearest(option, cls.model_fields) if option not in cls.model_fields else fault.nearest
    if near and layer.named.get(option, "").startswith(VARIABLE_PREFIX) and option not in cls.model_fields:
        near = VARIABLE_PREFIX + near.upper()
    problem = "no such option" if option not in cls.model_fields else fault.problem
    return Fault(layer.name_of(option), fault.value, problem, near)


def _placed(cls: type[Settings], fault: Fault, sources: Mapping[str, Layer]) -> Fault:
    """A rule over several options: names the places of those that it mentions."""
    places = [
        sources[name].name_of(name) for name in cls.model_fields if name in sources and name in fault.problem.split()
    ]
    return Fault(None, fault.value, f"{fault.problem} ({'; '.join(places)})" if places else fault.problem)


def _help(cls: type[Settings], faults: list[Fault]) -> str | None:
    if any(str(fault.value).startswith("tcp://") for fault in faults):
        return (
            "Kubernetes sets such variables for a Service of that name: "
            "set enableServiceLinks: false in the pod, or give the Service another name"
        )
    if any(fault.problem == "no such option" and fault.nearest is None for fault in faults):
        return f"options: {', '.join(cls.model_fields)}"
    return None


class ServeSettings(ServerOptions):
    """What `t2tdeploy serve` can be told: the options of a server, and what it serves."""

    bundles: tuple[Path, ...] = Field((), description="folders that export wrote")
    repository: Path | None = Field(None, description="folder of models and versions, instead of bundles")

    def source(self) -> BundleSource:
        """Where the bundles come from.

        Raises:
            UserError: none are given, or in both ways.
            InputError, CorruptFileError: a folder is not what it is said to be.
            UnreadableError: one cannot be read.
        """
        if bool(self.bundles) == (self.repository is not None):
            both = "both given: choose one" if self.bundles else "give one of them"
            raise UserError(
                f"bundles or a repository: {both}",
                help='on the command line --bundle or --repository, in a file bundles = ["…"] or repository = "…"',
            )
        return RepositoryFolder(self.repository) if self.repository else BundleFolders(self.bundles)
