"""What the tensors of a kind of model are, and how they become a request to it and its answer.

The protocol knows tensors and parameters, a model knows sentences and options. One `TensorInterface` for every task of
a bundle stands between them; the services of both carriers are the same for all tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from t2tdeploy.errors import RequestError, TooLargeError
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.inference.calls import InferRequest, unknown
from t2tdeploy.serving.inference.tensors import InferInput, Tensor, shown
from t2tdeploy.serving.served_model import ServedModel

_ALWAYS_READ = 64
"""Tensors or parameters of a request that are read even if no model has as many: one that means nothing is named."""

Call = TypeVar("Call")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Args:
        shape: the batch axis first; -1: of any size.
        optional: an input that clients usually leave out, an output that is only given when asked for.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


class TensorInterface(ABC, Generic[Call, Answer]):
    """A task's tensors.

    Attributes:
        inputs, outputs: that there are.
        parameters: names of the request's parameters that the task takes.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    parameters: Sequence[str]

    @abstractmethod
    def decode(self, request: InferRequest, deadline: float | None, max_rows: int) -> Call:
        """The request to the model.

        Args:
            deadline: on the clock of the event loop; None: there is none.
            max_rows: of one request.

        Raises:
            RequestError: naming the input or parameter that is not valid.
        """

    @abstractmethod
    async def run(self, frontend: Frontend, model: ServedModel, call: Call) -> Answer:
        """Has the model answer; raises what `Frontend` does."""

    @abstractmethod
    def encode(self, request: InferRequest, answer: Answer) -> list[Tensor]:
        """The outputs that the request asks for.

        Raises:
            RequestError: they are more than a server should hold.
        """

    def field_of(self, field: str, request: InferRequest) -> str:
        """What the request calls a field of its `Call`, for errors."""
        option = field.removeprefix("options.")
        return field if option == field else f"parameters.{option}"

    def require_counts(self, inputs: int, outputs: int, parameters: int) -> None:
        """To be called before a request is read: it may name any number of tensors in few bytes.

        Raises:
            RequestError: it has more of something than a request to this model can have.
        """
        counts = (
            ("inputs", inputs, len(self.inputs)),
            ("outputs", outputs, len(self.outputs)),
            ("parameters", parameters, len(self.parameters)),
        )
        for field, count, most in counts:
            if count > max(most, _ALWAYS_READ):
                raise RequestError(field, f"{count} in one request, the model has {most}")

    def check(self, request: InferRequest, max_rows: int) -> None:
        """Checks names, datatypes and shapes; no data is looked at.

        Raises:
            RequestError: naming what is not of this task.
        """
        specs = {spec.name: spec for spec in self.inputs}
        for name, tensor in request.inputs.items():
            if name not in specs:
                raise unknown("inputs", name, tuple(specs))
            _require_like(tensor, specs[name], max_rows)
        outputs = tuple(spec.name for spec in self.outputs)
        for name in request.outputs:
            if name not in outputs:
                raise unknown("outputs", name, outputs)
            if request.outputs.count(name) > 1:
                raise RequestError("outputs", f"'{name}' is asked for twice")
        for name in request.parameters:
            if name not in self.parameters:
                raise unknown("parameters", name, tuple(self.parameters))


def _require_like(tensor: InferInput, spec: TensorSpec, max_rows: int) -> None:
    if tensor.datatype != spec.datatype:
        raise tensor.error(f"datatype '{tensor.datatype[:20]}', but it is {spec.datatype}")
    tensor.count()
    shape = tensor.shape
    if len(shape) != len(spec.shape) or any(
        wanted not in (-1, size) for size, wanted in zip(shape, spec.shape, strict=True)
    ):
        raise tensor.error(f"shape {tensor.shape_text}, but it is {list(spec.shape)}, where -1 is any size")
    if shape[0] > max_rows:
        raise TooLargeError(shown(tensor.name), f"{shape[0]} rows in one request, the server takes {max_rows}")


def in_columns(request: InferRequest, names: Sequence[str]) -> tuple[InferRequest, bool]:
    """Triton gives every tensor an axis besides the batch's, so one value for a row is [n, 1]. Here, [n] will do.

    Returns:
        The request with these inputs as [n, 1], and whether one of them came as [n].
    """
    rows = {name: one for name in names if (one := request.inputs.get(name)) and len(one.shape) == 1}
    columns = {name: replace(one, shape=(*one.shape, 1), sent_shape=one.shape) for name, one in rows.items()}
    return replace(request, inputs={**request.inputs, **columns}), bool(rows)
