"""Tensors of the Open Inference Protocol as numpy arrays, whatever carried them.

What a request says of a tensor is checked against what it sent before anything of that size is made: a shape is only
believed when the bytes or elements are there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import RequestError

Array = npt.NDArray[Any]

MAX_AXES = 8
_MOST_ELEMENTS = 2**31
_SHOWN_CHARACTERS = 80

_NUMBERS: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    **{
        f"{kind}{bits}": np.dtype(f"<{kind[0].lower()}{bits // 8}")
        for kind in ("UINT", "INT")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
DATATYPES = (*_NUMBERS, "BF16", "BYTES")
RAW_ONLY = ("FP16", "BF16")
"""Datatypes without a form as single elements."""

_BF16_BYTES, _LENGTH_BYTES = 2, 4


@dataclass(frozen=True)
class Tensor:
    """A tensor of an answer.

    Args:
        datatype: one of DATATYPES.
        values: of the datatype's dtype; BF16: float32; BYTES: objects, each `bytes`.
    """

    name: str
    datatype: str
    values: Array

    def raw(self) -> bytes:
        """The values as `raw_output_contents` has them."""
        return write_raw(self.datatype, self.values)


@dataclass(frozen=True)
class InferInput:
    """A tensor of a request, as it says of itself; `read` gives its values.

    Args:
        shape: not yet known to be true.
        content: raw bytes, or single elements, which may be nested as the shape is; None: there is none.
        sent_shape: what errors tell, where the client gave another; None: it did not.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | Sequence[Any] | None
    sent_shape: tuple[int, ...] | None = None

    def read(self) -> Array:
        """The values [*shape].

        Raises:
            RequestError: naming the input; shape, datatype and content do not go together.
        """
        count = self.count()
        if self.datatype not in DATATYPES:
            raise self.error(f"unknown datatype '{shown(self.datatype)}'; valid choices: {', '.join(DATATYPES)}")
        if self.content is None:
            if count:
                raise self.error(f"shape {self.shape_text} but no data")
            return np.empty(self.shape, object if self.datatype == "BYTES" else _dtype(self.datatype))
        if isinstance(self.content, bytes):
            return self._from_raw(self.content, count)
        if self.datatype in RAW_ONLY:
            raise self.error(f"{self.datatype} is only taken as raw bytes")
        return self._from_elements(self._flat(self.content, count))

    def count(self) -> int:
        """Elements by the shape.

        Raises:
            RequestError: there is no such shape.
        """
        require_axes(self.name, len(self.shape))
        if any(size < 0 for size in self.shape):
            raise self.error(f"shape {self.shape_text} has a negative size")
        if math.prod(size or 1 for size in self.shape) > _MOST_ELEMENTS:  # numpy refuses it even with a size of 0
            raise self.error(f"shape {self.shape_text} has more elements than a request can hold")
        return math.prod(self.shape)

    @property
    def shape_text(self) -> str:
        """For errors."""
        return shown(str(list(self.shape if self.sent_shape is None else self.sent_shape)))

    def error(self, message: str, *, help: str | None = None) -> RequestError:
        """What is wrong with this input."""
        return RequestError(shown(self.name), message, help=help)

    def _from_raw(self, raw: bytes, count: int) -> Array:
        if self.datatype == "BYTES":
            return _objects(self._split(raw, count), self.shape)
        size = _BF16_BYTES if self.datatype == "BF16" else _NUMBERS[self.datatype].itemsize
        if len(raw) != count * size:
            raise self.error(
                f"{len(raw)} bytes, but {self.datatype} of shape {self.shape_text} has {count * size}",
            )
        if self.datatype == "BF16":
            return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(self.shape)
        if self.datatype == "BOOL":  # any byte but 0 is true; as a view, numpy would keep the byte
            return np.frombuffer(raw, np.uint8).astype(bool).reshape(self.shape)
        return np.frombuffer(raw, _NUMBERS[self.datatype]).reshape(self.shape)

    def _split(self, raw: bytes, count: int) -> list[bytes]:
        """Elements, each behind its length."""
        if count * _LENGTH_BYTES > len(raw):
            raise self.error(f"{len(raw)} bytes cannot hold the {count} elements of shape {self.shape_text}")
        found, start = [], 0
        for index in range(count):
            stop = start + _LENGTH_BYTES
            if stop > len(raw):
                raise self.error(f"the bytes end before element {index} of {count}")
            start, stop = stop, stop + struct.unpack_from("<I", raw, start)[0]
            if stop > len(raw):
                raise self.error(
                    f"element {index} is said to have {stop - start} bytes, {len(raw) - start} are left",
                    help="each element of BYTES comes behind its length, 4 bytes, little-endian",
                )
            found.append(raw[start:stop])
            start = stop
        if start != len(raw):
            raise self.error(
                f"{len(raw) - start} bytes are left behind the {count} elements of shape {self.shape_text}"
            )
        return found

    def _flat(self, content: Sequence[Any], count: int) -> Sequence[Any]:
        """The elements in row-major order."""
        if not (content and isinstance(content[0], list)):
            if len(content) != count:
                raise self.error(f"{len(content)} elements, but shape {self.shape_text} has {count}")
            return content
        rows: Sequence[Any] = [content]
        for size in self.shape:
            if not all(isinstance(row, list) and len(row) == size for row in rows):
                raise self.error(
                    f"the data is not nested as shape {self.shape_text}", help="or give it as one flat list"
                )
            rows = [element for row in rows for element in row]
        return rows

    def _from_elements(self, elements: Sequence[Any]) -> Array:
        if self.datatype == "BYTES":
            return _objects([self._as_bytes(index, one) for index, one in enumerate(elements)], self.shape)
        dtype = _NUMBERS[self.datatype]
        low, high = _range(dtype)
        for index, one in enumerate(elements):
            truth, whole = isinstance(one, bool), isinstance(one, int)
            if not (
                truth if dtype.kind == "b" else not truth and (whole or (dtype.kind == "f" and isinstance(one, float)))
            ):
                raise self._element_error(index, one)
            if not low <= one <= high and (whole or math.isfinite(one)):
                raise self._element_error(index, one)
        return np.array(elements, dtype).reshape(self.shape)

    def _as_bytes(self, index: int, element: Any) -> bytes:
        if isinstance(element, bytes):
            return element
        if not isinstance(element, str):
            raise self._element_error(index, element)
        try:
            return element.encode()
        except UnicodeEncodeError as error:
            field = f"{shown(self.name)}[{index}]"
            raise RequestError(field, f"not Unicode text: lone surrogate at character {error.start}") from None

    def _element_error(self, index: int, element: Any) -> RequestError:
        return self.error(f"element {index}, {shown(repr(element))}, is no {self.datatype}")


def write_raw(datatype: str, values: Array) -> bytes:
    """Values as raw bytes, the way back of `InferInput.read`. BF16 is rounded to the nearest, ties to even."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one)) + one for one in values.ravel().tolist())
    if datatype == "BF16":
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype("<u2").tobytes()
    return np.ascontiguousarray(values, _NUMBERS[datatype]).tobytes()


def texts(name: str, rows: Sequence[Sequence[str]], width: int) -> Tensor:
    """A BYTES tensor [rows, width], "" behind the shorter ones."""
    elements = [text.encode() for row in rows for text in (*row, *[""] * (width - len(row)))]
    return Tensor(name, "BYTES", _objects(elements, (len(rows), width)))


def require_axes(name: str, axes: int) -> None:
    """
    Raises:
        RequestError: a tensor of this name has more axes than are taken.
    """
    if axes > MAX_AXES:
        raise RequestError(shown(name), f"{axes} axes, at most {MAX_AXES} are taken")


def shown(text: str) -> str:
    """A client's own words as an error may repeat them: not at any length."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _objects(elements: list[bytes], shape: tuple[int, ...]) -> Array:
    values = np.empty(len(elements), object)
    values[:] = elements
    return values.reshape(shape)


def _dtype(datatype: str) -> np.dtype[Any]:
    return np.dtype("<f4") if datatype == "BF16" else _NUMBERS[datatype]


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return np.finfo(dtype).min.item(), np.finfo(dtype).max.item()
    return np.iinfo(dtype).min, np.iinfo(dtype).max
