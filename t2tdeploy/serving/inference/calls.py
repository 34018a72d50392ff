"""A request of the protocol and its answer, as all carriers of it see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from t2tdeploy.errors import RequestError, nearest
from t2tdeploy.serving.inference.tensors import InferInput, Tensor, shown

Parameter = bool | int | float | str


@dataclass(frozen=True)
class InferRequest:
    """What a client asks of a model.

    Args:
        model: name or alias.
        version: number or content id; empty: the newest.
        id: the client's own, repeated in the answer.
        outputs: names of those asked for; empty: the usual ones.
        priority: of the batcher; higher goes first.
    """

    model: str
    version: str
    id: str
    parameters: Mapping[str, Parameter]
    inputs: Mapping[str, InferInput]
    outputs: tuple[str, ...]
    priority: int = 0


@dataclass(frozen=True)
class InferAnswer:
    """What the model says.

    Args:
        model, version: that answered.
    """

    model: str
    version: str
    id: str
    tensors: list[Tensor]
    parameters: dict[str, Parameter] = field(default_factory=dict)


def inputs_by_name(inputs: list[InferInput]) -> dict[str, InferInput]:
    """
    Raises:
        RequestError: two have the same name.
    """
    found: dict[str, InferInput] = {}
    for one in inputs:
        if one.name in found:
            raise one.error("given twice")
        found[one.name] = one
    return found


def require_no_shared_memory(owner: str, parameters: Mapping[str, object]) -> None:
    """
    Raises:
        RequestError: a tensor has a parameter, and none is known here.
    """
    for name in parameters:
        if name.startswith("shared_memory"):
            raise RequestError(shown(owner), "shared memory is not available", help="send the data in the request")
        raise RequestError(shown(owner), f"unknown parameter '{shown(name)}'")


def unknown(kind: str, name: str, choices: Mapping[str, object] | tuple[str, ...]) -> RequestError:
    """A name of a request that means nothing to the model: unlike a model's name, an invalid argument."""
    similar = nearest(name, choices)
    help = f"did you mean '{similar}'?" if similar else None
    return RequestError(kind, f"unknown name '{shown(name)}'; valid choices: {', '.join(choices)}", help=help)
