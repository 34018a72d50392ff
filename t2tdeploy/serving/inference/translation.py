"""Translation as tensors. Names are those of `export --format triton`, wherever they mean the same.

    sources [batch, 1] BYTES, or source_ids [batch, source_length] INT64, padded with 0;
    target_prefixes [batch, 1] BYTES, if any
      -> texts [batch, hypotheses] BYTES, scores [batch, hypotheses] FP32, lengths [batch, hypotheses] INT64,
         finished, truncated [batch, 1] BOOL
    on request: target_ids [batch, hypotheses, target_length] INT64, token_scores of the same shape FP32,
         attention [batch, hypotheses, target_length, source_length] FP32

Sources may come as [batch], and then finished and truncated do. Where a sentence has fewer hypotheses than were asked
for, the rest have length 0 and score -inf.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from t2tdeploy.decoding import FLAGS, WHOLE, SearchKey, TranslateOptions
from t2tdeploy.errors import RequestError, TooLargeError
from t2tdeploy.features import PAD_ID
from t2tdeploy.hypotheses import Hypothesis
from t2tdeploy.serving.frontend import MAX_DETAILS, Frontend, TranslateCall, Translated
from t2tdeploy.serving.inference.calls import InferRequest, Parameter
from t2tdeploy.serving.inference.interface import TensorInterface, TensorSpec, in_columns
from t2tdeploy.serving.inference.tensors import Array, Tensor, shown, texts
from t2tdeploy.serving.served_model import ServedModel

_OPTION_OF = {"token_scores": "return_tokens", "attention": "return_attention"}


class TranslationInterface(TensorInterface[TranslateCall, Translated]):
    """See the head of this file."""

    inputs = (
        TensorSpec("sources", "BYTES", (-1, 1)),
        TensorSpec("target_prefixes", "BYTES", (-1, 1), optional=True),
        TensorSpec("source_ids", "INT64", (-1, -1), optional=True),
    )
    outputs = (
        TensorSpec("texts", "BYTES", (-1, -1)),
        TensorSpec("scores", "FP32", (-1, -1)),
        TensorSpec("lengths", "INT64", (-1, -1)),
        TensorSpec("finished", "BOOL", (-1, 1)),
        TensorSpec("truncated", "BOOL", (-1, 1)),
        TensorSpec("target_ids", "INT64", (-1, -1, -1), optional=True),
        TensorSpec("token_scores", "FP32", (-1, -1, -1), optional=True),
        TensorSpec("attention", "FP32", (-1, -1, -1, -1), optional=True),
    )
    parameters = tuple(field.name for field in fields(TranslateOptions))

    def decode(self, request: InferRequest, deadline: float | None, max_rows: int) -> TranslateCall:
        """See TensorInterface."""
        request, _ = in_columns(request, ("sources", "target_prefixes"))
        self.check(request, max_rows)
        if len({"sources", "source_ids"} & request.inputs.keys()) != 1:
            given = "both are given" if "sources" in request.inputs else "neither is given"
            raise RequestError("inputs", f"sources or source_ids are needed, {given}")
        changes = {name: read_option(name, value) for name, value in request.parameters.items()}
        changes |= {_OPTION_OF[name]: True for name in request.outputs if name in _OPTION_OF}
        if "source_ids" in request.inputs and changes.get("replace_unknown"):
            raise RequestError(
                "parameters.replace_unknown", "source_ids have no text to take it from", help="send sources"
            )
        return TranslateCall(
            sources=self._sources(request),
            options=TranslateOptions(**changes),
            target_prefixes=_texts(request, "target_prefixes") if "target_prefixes" in request.inputs else (),
            model=request.model,
            version=request.version,
            deadline=deadline,
            priority=request.priority,
        )

    async def run(self, frontend: Frontend, model: ServedModel, call: TranslateCall) -> Translated:
        """See TensorInterface."""
        return await frontend.translate(call, model)

    def encode(self, request: InferRequest, answer: Translated) -> list[Tensor]:
        """See TensorInterface."""
        wanted = request.outputs or self._usual(answer.key)
        hypotheses, width = answer.answer.results, answer.key.num_hypotheses
        longest_source = max(len(one.ids) for one in answer.sentences)
        longest = max(one.tokens for row in hypotheses for one in row)
        sizes = {"target_ids": 1, "token_scores": 1, "attention": longest_source}
        for name in sizes.keys() & set(wanted):
            if (count := len(hypotheses) * width * longest * sizes[name]) > MAX_DETAILS:
                raise TooLargeError(
                    f"outputs.{name}",
                    f"{count} numbers with padding, the server gives {MAX_DETAILS}",
                    help="send fewer sources at once, or sources of similar length",
                )
        _, as_rows = in_columns(request, ("sources",))
        shape = (len(hypotheses),) if as_rows else (len(hypotheses), 1)
        details = (longest, longest_source)
        return [self._output(name, answer, shape, details) for name in wanted]

    def field_of(self, field: str, request: InferRequest) -> str:
        """See TensorInterface."""
        if field == "sources" and "source_ids" in request.inputs:
            return "source_ids"
        return super().field_of(field, request)

    def _usual(self, key: SearchKey) -> tuple[str, ...]:
        """The outputs of a request that names none."""
        usual = [spec.name for spec in self.outputs if not spec.optional]
        details = ["target_ids", "token_scores"] if key.tokens else []
        return (*usual, *details, *(["attention"] if key.attention else []))

    def _sources(self, request: InferRequest) -> Sequence[str] | Sequence[Sequence[int]]:
        if "sources" in request.inputs:
            return _texts(request, "sources")
        ids: list[list[int]] = request.inputs["source_ids"].read().tolist()
        return ids

    def _output(self, name: str, answer: Translated, row_shape: tuple[int, ...], details: tuple[int, int]) -> Tensor:
        hypotheses, width = answer.answer.results, answer.key.num_hypotheses
        match name:
            case "texts":
                return texts(name, [[one.text for one in row] for row in hypotheses], width)
            case "scores":
                scores = _table(hypotheses, width, lambda one: one.score, np.float32, -np.inf)
                return Tensor(name, "FP32", scores)
            case "lengths":
                return Tensor(name, "INT64", _table(hypotheses, width, lambda one: one.tokens, np.int64, 0))
            case "finished":
                finished = [all(one.finished for one in row) for row in hypotheses]
                return Tensor(name, "BOOL", np.array(finished).reshape(row_shape))
            case "truncated":
                truncated = [one.truncated for one in answer.sentences]
                return Tensor(name, "BOOL", np.array(truncated).reshape(row_shape))
        values = _details(name, hypotheses, (len(hypotheses), width, *details))
        return Tensor(name, "INT64" if name == "target_ids" else "FP32", values)


def read_option(name: str, value: Parameter) -> Any:
    """The option that a parameter sets. tritonclient sends no fractions but as text, so texts are read as numbers.

    Raises:
        RequestError: it is of another kind.
    """
    kind = "neither true nor false" if name in FLAGS else f"not a {'whole ' if name in WHOLE else ''}number"
    error = RequestError(f"parameters.{name}", f"{shown(repr(value))} is {kind}")
    if name == "suppress":
        return _pieces(value)
    if name in FLAGS:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise error
        return value
    if isinstance(value, bool):
        raise error
    try:
        if name in WHOLE:
            return int(value) if isinstance(value, str) or int(value) == value else value
        return float(value) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        raise error from None


def _pieces(value: Parameter) -> tuple[str, ...]:
    help = """a JSON list of pieces as text: '["\u2581Hund"]'"""
    try:
        pieces = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        pieces = None
    if not isinstance(pieces, list) or not all(isinstance(one, str) for one in pieces):
        raise RequestError("parameters.suppress", f"{shown(repr(value))} is no list of texts", help=help)
    return tuple(pieces)


def _texts(request: InferRequest, name: str) -> list[str]:
    found = []
    for index, one in enumerate(request.inputs[name].read().ravel().tolist()):
        try:
            found.append(one.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"{name}[{index}]", f"not valid UTF-8 at byte {error.start}") from None
    return found


def _table(hypotheses: Sequence[Sequence[Hypothesis]], width: int, value: Any, dtype: Any, padding: float) -> Array:
    table = np.full((len(hypotheses), width), padding, dtype)
    for row, found in zip(table, hypotheses, strict=True):
        row[: len(found)] = [value(one) for one in found]
    return table


def _details(name: str, hypotheses: Sequence[Sequence[Hypothesis]], shape: tuple[int, int, int, int]) -> Array:
    """What is told of every token, [batch, hypotheses, target_length] or with [source_length] behind."""
    if name == "target_ids":
        values = np.full(shape[:3], PAD_ID, np.int64)
    else:
        values = np.zeros(shape if name == "attention" else shape[:3], np.float32)
    for row, found in enumerate(hypotheses):
        for column, one in enumerate(found):
            if name == "target_ids":
                values[row, column, : len(one.ids)] = one.ids
            elif name == "token_scores":
                values[row, column, : len(one.details)] = [token.score for token in one.details]
            elif one.details:
                looks = [token.attention for token in one.details]
                values[row, column, : len(looks), : len(looks[0])] = looks
    return values
