"""From what a client sends to what a graph takes, the features of an example: one rule for programs and server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.columns.values import as_category, as_number, as_text
from t2tdeploy.errors import InputError, OperationalError, RequestError, nearest
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.manifest import FeatureInput
from t2tdeploy.sentences import pad_rows, require_unicode
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos

_LARGEST_FLOAT = float(np.finfo(np.float32).max)

RawExample = str | bytes | np.ndarray | Mapping[str, Any]
"""Feature name -> value; where there is one feature, its value alone will do.

    text       str, as many as belong together (a pair of sentences), or an int64 array of ids with EOS at the end
    image      bytes of a file, or a uint8 array [height, width] or [height, width, channels]
    tensor     array, or nested lists
    number     int, float, or a text that shows one (see `columns.values.as_number`)
    category   str, or a number (see `columns.values.as_category`); an id where the bundle's categories are ids
"""


@dataclass(frozen=True)
class Example:
    """An example as the graph takes it.

    Args:
        inputs: of the graph, by name; texts as ids, not padded.
        length: tokens of the longest text, EOS included; 1 where there is none.
        cost: tokens of all texts; 1 where there is none.
        truncated: whether a text was cut.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    length: int = 1
    cost: int = 1
    truncated: bool = False


class ExampleEncoder:
    """Checks examples of one bundle and encodes them.

    Args:
        tokenizers: of the features that are texts.
    """

    def __init__(self, features: Mapping[str, FeatureInput], tokenizers: Mapping[str, Tokenizer]) -> None:
        self._features, self._tokenizers = features, tokenizers

    def encode(self, raw: RawExample, place: str, *, truncate: bool = False) -> Example:
        """
        Args:
            place: what errors call the example, e.g. "examples[3]".
            truncate: cut texts that are too long instead of refusing them.

        Raises:
            RequestError: naming the feature that is missing, unknown or not as it must be.
        """
        values = self._by_name(raw, place)
        inputs: dict[str, npt.NDArray[Any]] = {}
        lengths, truncated = [], False
        for name, feature in self._features.items():
            field = f"{place}.{name}"
            if name not in values and not feature.may_be_missing:
                raise RequestError(field, f"missing; an example has {', '.join(self._features)}")
            value = values.get(name)
            if feature.kind == "text":
                ids, cut = self._ids(name, value, field, truncate)
                lengths.append(len(ids))
                truncated = truncated or cut
                inputs[feature.graph_input] = np.array(ids, dtype=np.int64)
            else:
                inputs[feature.graph_input] = _READERS[feature.kind](feature, value, field)
        return Example(inputs, max(lengths, default=1), sum(lengths) or 1, truncated)

    def _by_name(self, raw: RawExample, place: str) -> Mapping[str, Any]:
        if not isinstance(raw, Mapping):
            if len(self._features) == 1:
                return dict.fromkeys(self._features, raw)
            raise RequestError(place, f"one value, but an example has several features: {', '.join(self._features)}")
        for name in raw:
            if name not in self._features:
                close = nearest(str(name), self._features)
                raise RequestError(
                    f"{place}.{str(name)[:80]}",
                    f"no such feature; an example has {', '.join(self._features)}",
                    help=f"did you mean '{close}'?" if close else None,
                )
        if not raw:
            raise RequestError(place, f"empty; an example has {', '.join(self._features)}")
        return raw

    def _ids(self, name: str, value: Any, field: str, truncate: bool) -> tuple[list[int], bool]:
        """The ids of a text, and whether it was cut. Several texts have EOS behind each; the longest is cut first."""
        limit = self._features[name].max_length
        assert limit is not None
        parts = self._parts(name, value, field)
        total = sum(map(len, parts))
        if total <= limit:
            return [token for part in parts for token in part], False
        if not truncate:
            raise RequestError(field, f"{total} tokens, the model takes {limit}", help="shorten it, or ask to truncate")
        if len(parts) > limit:
            raise RequestError(field, f"{len(parts)} texts, the model takes {limit} tokens")
        for _ in range(total - limit):
            del max(reversed(parts), key=len)[-2]  # EOS stays
        return [token for part in parts for token in part], True

    def _parts(self, name: str, value: Any, field: str) -> list[list[int]]:
        tokenizer = self._tokenizers[name]
        if isinstance(value, np.ndarray):
            return [_checked_ids(value, tokenizer, field)]
        texts, parts = [value] if isinstance(value, str) else value, self._features[name].parts
        if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
            raise RequestError(field, f"a {_kind(value)}, where a text is expected")
        if len(texts) != parts:
            given = "1 text" if len(texts) == 1 else f"{len(texts)} texts"
            raise RequestError(field, f"{given}, but it consists of {parts}")
        for text in texts:
            require_unicode(field, text)
        return [encode_with_eos(tokenizer, text) for text in texts]


def stack(examples: Sequence[Example]) -> dict[str, npt.NDArray[Any]]:
    """The inputs of a graph for a batch; texts are padded to the longest. There must be an example."""
    return {name: _stacked([one.inputs[name] for one in examples]) for name in examples[0].inputs}


def _stacked(values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    first = values[0]
    if first.ndim == 0:
        return np.array([value[()] for value in values], first.dtype)  # np.stack would give each an axis first
    if len({value.shape for value in values}) == 1:
        return np.stack(values)
    return pad_rows([value.tolist() for value in values])


def _checked_ids(value: npt.NDArray[Any], tokenizer: Tokenizer, field: str) -> list[int]:
    if value.ndim != 1 or value.dtype.kind not in "iu":
        raise RequestError(field, f"ids are an array of whole numbers with one axis, not {value.dtype} {value.ndim}-d")
    ids: list[int] = value.tolist()
    while ids and ids[-1] == PAD_ID:
        ids.pop()
    if not ids or ids[-1] != EOS_ID:
        raise RequestError(field, f"the ids do not end with EOS, {EOS_ID}, and perhaps PAD, {PAD_ID}")
    for place, one in enumerate(ids):
        if not PAD_ID < one < tokenizer.vocab_size:
            last = tokenizer.vocab_size - 1
            raise RequestError(field, f"{one} at place {place} is not the id of a token; they are 1 to {last}")
    return ids


def _image(feature: FeatureInput, value: Any, field: str) -> npt.NDArray[Any]:
    try:
        from t2tdeploy.images import decode_image, fit_array  # Pillow: only bundles that take images need it
    except ImportError as error:
        raise OperationalError(
            f"Pillow cannot be imported: {error}", help="images need it: pip install 't2tdeploy[serve]'"
        ) from error
    try:
        if isinstance(value, bytes):
            return decode_image(value, feature.shape)
        if isinstance(value, np.ndarray):
            return fit_array(value, feature.shape)
    except InputError as error:
        raise RequestError(field, error.message, help=error.help) from None
    raise RequestError(field, f"a {_kind(value)}, where an image is expected: a file's bytes, or a uint8 array")


def _tensor(feature: FeatureInput, value: Any, field: str) -> npt.NDArray[Any]:
    if value is None and feature.may_be_missing:
        return np.full(feature.shape, np.nan, feature.dtype)
    try:
        found = np.asarray(value)
    except ValueError:
        raise RequestError(field, "rows of different lengths") from None
    if found.dtype.kind not in "fiub":
        raise RequestError(field, f"a {_kind(value)}, where numbers are expected")
    if found.shape != feature.shape:
        raise RequestError(field, f"shape {list(found.shape)}, but it is {list(feature.shape)}")
    with np.errstate(over="ignore"):
        found = found.astype(feature.dtype)
    if found.dtype.kind == "f" and not feature.may_be_missing and not np.isfinite(found).all():
        raise RequestError(field, "not all of its numbers are finite")
    return found


def _number(feature: FeatureInput, value: Any, field: str) -> npt.NDArray[Any]:
    try:
        number = as_number(value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value)
    except ValueError as error:
        raise RequestError(field, str(error)) from None
    if abs(number) <= _LARGEST_FLOAT:
        found = np.array(number, dtype=feature.dtype)
    else:
        with np.errstate(over="ignore"):
            found = np.array(number).astype(feature.dtype)
    if not feature.may_be_missing and not math.isfinite(found):
        raise RequestError(field, f"{value!r:.60} is not a finite number")
    return found


def _category(feature: FeatureInput, value: Any, field: str) -> npt.NDArray[Any]:
    if feature.dtype == "string":
        try:
            text = as_category(value) if feature.canonical else as_text(value)
        except ValueError as error:
            raise RequestError(field, str(error)) from None
        if not text and not feature.may_be_missing:
            raise RequestError(field, "missing")
        return np.array(text, dtype=object)
    whole = isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and value == value // 1)
    if isinstance(value, bool) or not whole:
        raise RequestError(field, f"a {_kind(value)}, where the id of a category is expected")
    if not 0 <= value < (feature.size or 0):
        raise RequestError(field, f"{value} is not the id of a category; they are 0 to {(feature.size or 0) - 1}")
    return np.array(value, dtype=feature.dtype)


_READERS = {"image": _image, "tensor": _tensor, "number": _number, "category": _category}


def _kind(value: Any) -> str:
    """What an error calls a value of the wrong kind."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array"
    words = {str: "text", bytes: "string of bytes", bool: "truth value", dict: "mapping", type(None): "missing value"}
    return words.get(type(value), type(value).__name__)
