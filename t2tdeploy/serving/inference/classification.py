"""Classification and regression as tensors. Inputs are the features of the model, batch first:

    text       NAME [batch, parts] BYTES, or NAME_ids [batch, length] INT64, padded with 0
    image      NAME [batch, 1] BYTES, files; or NAME_pixels [batch, height, width, channels] UINT8
    tensor     NAME [batch, …] FP32
    number     NAME [batch, 1] FP32
    category   NAME [batch, 1] BYTES; INT64 where the model knows them by their ids
      -> probabilities, logits [batch, classes] FP32, by class id;
         labels [batch, top_k] BYTES, class_ids [batch, top_k] INT64, best first; top_k is a parameter, default 1
      or values [batch, …] FP32 of a model that regresses

What has one value for a row may come as [batch]. Features that may be missing may be left out for all rows; of one row
a number is NaN then, and a category the empty string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2tdeploy.classifier import Classification, Classifier
from t2tdeploy.errors import RequestError
from t2tdeploy.manifest import FeatureInput
from t2tdeploy.serving.frontend import Classified, ClassifyCall, Frontend
from t2tdeploy.serving.inference.calls import InferRequest, Parameter
from t2tdeploy.serving.inference.interface import TensorInterface, TensorSpec, in_columns
from t2tdeploy.serving.inference.tensors import Array, Tensor, shown, texts
from t2tdeploy.serving.served_model import ServedModel

_DATATYPES = {"string": "BYTES", "float32": "FP32", "int64": "INT64", "uint8": "UINT8"}
"""By numpy's name."""

_PLACE = re.compile(r"examples\[(\d+)\]\.(.+)", re.DOTALL)
"""Of a feature in a call: row and name."""

_MOST_DIGITS = 20
"""Of a whole number that comes as text; Python's own bound is an error of another kind."""


class ClassificationInterface(TensorInterface[ClassifyCall, Classified]):
    """The tensors of one model; see the head of this file."""

    parameters = ("top_k", "truncate")

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._features: Mapping[str, FeatureInput] = classifier.features
        self.inputs = tuple(spec for name in self._features for spec in self._specs(name))
        classes = len(classifier.classes)
        if classes:
            self.outputs: Sequence[TensorSpec] = (
                TensorSpec("probabilities", "FP32", (-1, classes)),
                TensorSpec("logits", "FP32", (-1, classes)),
                TensorSpec("labels", "BYTES", (-1, -1)),
                TensorSpec("class_ids", "INT64", (-1, -1)),
            )
        else:
            self.outputs = (TensorSpec("values", "FP32", (-1, *self._value_shape())),)

    def decode(self, request: InferRequest, deadline: float | None, max_rows: int) -> ClassifyCall:
        """See TensorInterface."""
        single = [spec.name for spec in self.inputs if spec.shape[1:] == (1,)]
        request, _ = in_columns(request, single)
        self.check(request, max_rows)
        self._top_k(request)
        sizes = {name: one.shape[0] for name, one in request.inputs.items()}
        if len({*sizes.values()}) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise RequestError("inputs", f"not all of as many rows: {shown(listed)}")
        columns = {name: self._column(name, one, request) for name, one in self._features.items()}
        given = {name: values for name, values in columns.items() if values is not None}
        rows = next(iter(sizes.values()), 0)
        return ClassifyCall(
            [{name: values[row] for name, values in given.items()} for row in range(rows)],
            top_k=max(1, len(self._classifier.classes)),
            truncate=_flag("truncate", request.parameters.get("truncate", False)),
            model=request.model,
            version=request.version,
            deadline=deadline,
            priority=request.priority,
            size=sum(8 * one.count() for one in request.inputs.values()) + (1 << 20) * self._has_images,
        )

    async def run(self, frontend: Frontend, model: ServedModel, call: ClassifyCall) -> Classified:
        """See TensorInterface."""
        return await frontend.classify(call, model)

    def encode(self, request: InferRequest, answer: Classified) -> list[Tensor]:
        """See TensorInterface."""
        wanted = request.outputs or tuple(spec.name for spec in self.outputs)
        top_k = self._top_k(request)
        return [self._output(name, answer.answer.results, top_k) for name in wanted]

    def field_of(self, field: str, request: InferRequest) -> str:
        """See TensorInterface."""
        if field == "examples" and field not in request.inputs:
            return shown(next(iter(request.inputs))) if len(request.inputs) == 1 else "inputs"
        if place := _PLACE.fullmatch(field):
            row, name = place.groups()
            sent = next((spec.name for spec in self._specs(name) if spec.name in request.inputs), name)
            return f"{shown(sent)}[{row}]"
        return super().field_of(field, request)

    def _specs(self, name: str) -> list[TensorSpec]:
        """The tensors that a feature may come as, the usual one first; none has the name of another feature."""
        usual, *others = _inputs(name, self._features[name])
        return [usual, *(spec for spec in others if spec.name not in self._features)]

    @property
    def _has_images(self) -> bool:
        return any(one.kind == "image" for one in self._features.values())

    def _value_shape(self) -> tuple[int, ...]:
        axes = next(spec.axes for spec in self._classifier.bundle.manifest.outputs if spec.name == "values")
        return tuple(int(size) for size in axes[1:]) or (1,)

    def _top_k(self, request: InferRequest) -> int:
        value = request.parameters.get("top_k", 1)
        if isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS:
            value = int(value)  # tritonclient's users often send text
        if isinstance(value, float | str):
            raise RequestError("parameters.top_k", f"{shown(repr(value))} is not a whole number")
        return self._classifier.require_top_k(value, "parameters.top_k")

    def _column(self, name: str, feature: FeatureInput, request: InferRequest) -> Sequence[Any] | None:
        """A feature of every row; None: it is left out."""
        names = [spec.name for spec in self._specs(name)]
        there = [one for one in names if one in request.inputs]
        if len(there) > 1:
            raise RequestError("inputs", f"{' and '.join(there)} are given", help="send one of them")
        if not there:
            if feature.may_be_missing:
                return None
            raise RequestError("inputs", f"{' or '.join(names)} is needed")
        values = request.inputs[there[0]].read()
        if there[0] != name or feature.kind == "tensor":
            return list(values)
        if feature.kind == "image":
            return [row[0] for row in values.tolist()]
        if values.dtype == object:
            rows = _strings(there[0], values)
            return [row[0] for row in rows] if values.shape[1] == 1 else rows
        return [row[0] for row in values.tolist()]

    def _output(self, name: str, answers: Sequence[Classification], top_k: int) -> Tensor:
        match name:
            case "labels":
                return texts(name, [[one.name for one in answer.labels[:top_k]] for answer in answers], top_k)
            case "class_ids":
                ids = [[one.class_id for one in answer.labels[:top_k]] for answer in answers]
                return Tensor(name, "INT64", np.array(ids, np.int64))
            case "values":
                values = np.array([answer.values for answer in answers], np.float32)
                return Tensor(name, "FP32", values.reshape(len(answers), *self._value_shape()))
        found = np.empty((len(answers), len(self._classifier.classes)), np.float32)
        for row, answer in zip(found, answers, strict=True):
            row[[one.class_id for one in answer.labels]] = [
                one.probability if name == "probabilities" else one.logit for one in answer.labels
            ]
        return Tensor(name, "FP32", found)


def _inputs(name: str, feature: FeatureInput) -> list[TensorSpec]:
    match feature.kind:
        case "text":
            ids = TensorSpec(f"{name}_ids", "INT64", (-1, -1), optional=True)
            return [TensorSpec(name, "BYTES", (-1, feature.parts)), ids]
        case "image":
            pixels = TensorSpec(f"{name}_pixels", "UINT8", (-1, *feature.shape), optional=True)
            return [TensorSpec(name, "BYTES", (-1, 1)), pixels]
    shape = feature.shape if feature.kind == "tensor" else (1,)
    return [TensorSpec(name, _DATATYPES[feature.dtype], (-1, *shape))]


def _strings(name: str, values: Array) -> list[list[str]]:
    found: list[list[str]] = []
    for index, row in enumerate(values.tolist()):
        try:
            found.append([one.decode("utf-8") for one in row])
        except UnicodeDecodeError as error:
            raise RequestError(f"{shown(name)}[{index}]", f"not valid UTF-8 at byte {error.start}") from None
    return found


def _flag(name: str, value: Parameter) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise RequestError(f"parameters.{name}", f"{shown(repr(value))} is neither true nor false")
    return value
