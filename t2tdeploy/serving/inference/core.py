"""What the protocol's methods do, for gRPC and HTTP alike: inference, and loading and unloading of models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from t2tdeploy.classifier import Classifier
from t2tdeploy.errors import RequestError
from t2tdeploy.serving.answering import LARGE_BYTES, in_thread_if
from t2tdeploy.serving.batcher import MAX_PRIORITY, MIN_PRIORITY
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.inference.calls import InferAnswer, InferRequest, Parameter, unknown
from t2tdeploy.serving.inference.classification import ClassificationInterface
from t2tdeploy.serving.inference.interface import TensorInterface
from t2tdeploy.serving.inference.tensors import shown
from t2tdeploy.serving.inference.translation import TranslationInterface
from t2tdeploy.serving.served_model import ServedModel

_TRANSLATION = TranslationInterface()

PRIORITY_LEVELS = MAX_PRIORITY - MIN_PRIORITY + 1
DEFAULT_PRIORITY_LEVEL = MAX_PRIORITY + 1

FINAL_RESPONSE = "triton_final_response"
_ASKS_FOR_IT = "triton_enable_empty_final_response"
_WITHOUT_EFFECT = ("sequence_id", "sequence_start", "sequence_end")
"""Of models that keep a state between requests; Triton's clients may send them to any model."""


class InferenceCore:
    """Inference through a `Frontend`; its models and their repository are the frontend's."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend

    @contextlib.contextmanager
    def using(self, model: str, version: str) -> Iterator[tuple[ServedModel, TensorInterface[Any, Any]]]:
        """A model and its tensors; around the reading of a request and its answer, which another version with other
        tensors might not understand.

        Raises:
            RequestError, UnknownNameError, UnavailableError: as `ModelRepository.find` does.
        """
        found = self.frontend.repository.find(model, version)
        with found.used():
            yield found, interface_of(found)

    async def infer(
        self,
        model: ServedModel,
        interface: TensorInterface[Any, Any],
        request: InferRequest,
        size: int,
        deadline: float | None,
    ) -> InferAnswer:
        """Answers one request; to be called within `Frontend.accepting`.

        Args:
            model, interface: that the request names.
            size: bytes of the request.
            deadline: of the call, on the clock of the event loop; None: it has none.

        Raises:
            RequestError: naming the input or parameter that is not valid.
            UnknownNameError, OverloadedError, TimeoutError, UnavailableError: as `Frontend` does.
        """
        parameters, rest = _split(request.parameters)
        deadline = _deadline(parameters, deadline)
        request = replace(request, parameters=rest, priority=priority_of(parameters))
        try:
            max_rows = self.frontend.options.max_sentences_per_request
            call = await in_thread_if(size > LARGE_BYTES, interface.decode, request, deadline, max_rows)
            answer = await interface.run(self.frontend, model, call)
        except RequestError as error:
            raise _in_words_of(request, interface, error) from None
        tensors = await in_thread_if(size > LARGE_BYTES or bool(request.outputs), interface.encode, request, answer)
        final: dict[str, Parameter] = {FINAL_RESPONSE: True} if parameters.get(_ASKS_FOR_IT) else {}
        return InferAnswer(model.name, str(model.number), request.id, tensors, final)

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Has the repository load a model from disk.

        Raises:
            RequestError: a parameter; Triton's would replace what is on disk.
            UnknownNameError, UnavailableError: as `ModelRepository.load` does.
        """
        for parameter in parameters:
            raise RequestError(f"parameters.{shown(parameter)}", "models are loaded as they are on the server's disk")
        await self.frontend.repository.load(name)

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Has the repository unload a model.

        Raises:
            RequestError: an unknown parameter.
            UnknownNameError: no such model is served.
        """
        for parameter in parameters:
            if parameter != "unload_dependents":  # tritonclient always sends it; no model depends on another here
                raise unknown("parameters", parameter, ("unload_dependents",))
        await self.frontend.repository.unload(name)


def interface_of(model: ServedModel) -> TensorInterface[Any, Any]:
    """The tensors of a model."""
    return ClassificationInterface(model.answerer) if isinstance(model.answerer, Classifier) else _TRANSLATION


def _split(parameters: Mapping[str, Parameter]) -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """The parameters that the protocol has for every model, and those of the model."""
    general = {"priority", "timeout", _ASKS_FOR_IT, *_WITHOUT_EFFECT}
    ours = {name: value for name, value in parameters.items() if name in general}
    if not isinstance(ours.get(_ASKS_FOR_IT, False), bool):
        raise RequestError(f"parameters.{_ASKS_FOR_IT}", "neither true nor false")
    return ours, {name: value for name, value in parameters.items() if name not in general}


def _deadline(parameters: Mapping[str, Parameter], deadline: float | None) -> float | None:
    """The earlier one of the call's and that of the parameter `timeout`; 0 is none, as Triton has it."""
    timeout = parameters.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 <= timeout < 2**63:
        raise RequestError("parameters.timeout", f"{shown(repr(timeout))} is not a whole number of microseconds")
    if not timeout:
        return deadline
    asked = asyncio.get_running_loop().time() + timeout / 1e6
    return asked if deadline is None else min(asked, deadline)


def priority_of(parameters: Mapping[str, Parameter]) -> int:
    """The batcher's priority for the parameter `priority`, whose levels begin with 1, the most urgent; 0: the default.

    Raises:
        RequestError: there is no such level.
    """
    level = parameters.get("priority", 0)
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= PRIORITY_LEVELS:
        raise RequestError("parameters.priority", f"{shown(repr(level))} is not between 0 and {PRIORITY_LEVELS}")
    return MAX_PRIORITY + 1 - level if level else 0


def _in_words_of(request: InferRequest, interface: TensorInterface[Any, Any], error: RequestError) -> RequestError:
    field = interface.field_of(error.field, request)
    if field == error.field:
        return error
    return type(error)(field, error.message.removeprefix(f"{error.field}: "), help=error.help)
