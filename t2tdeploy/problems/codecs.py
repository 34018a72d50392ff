"""What a feature may be in a sample, and how it is stored: one codec per modality.

    modality      in a sample                                    columns of a shard
    SYMBOL        a text, or a tuple of `parts` texts            NAME list<int32>, NAME_text string or list<string>
    CLASS_LABEL   the name of a class, or its id                 NAME int32, NAME_text string (the name)
    MULTI_LABEL   a list of names or ids                         NAME list<int32>, NAME_text list<string>
    REAL          a number, or an array or list of `shape`       NAME float, or fixed_size_list<float>
    IMAGE         a uint8 array [height, width, channels]        NAME fixed_size_binary
    CATEGORY      an id                                          NAME int32

`columns` reads them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.classes import is_no_class
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos


class Codec(ABC):
    """Checks, hashes and stores one feature.

    Args:
        spec: a label whose `classes` are empty may have any name: they are still to be found.
        tokenizer: of a SYMBOL feature, once there is one.
    """

    def __init__(self, spec: FeatureSpec, tokenizer: Tokenizer | None = None) -> None:
        self.spec, self.name, self.tokenizer = spec, spec.name, tokenizer

    @property
    @abstractmethod
    def what(self) -> str:
        """The values it takes, in words."""

    @abstractmethod
    def fault(self, value: Any) -> str | None:
        """What is wrong with the value of a sample, as the end of a sentence; None: nothing."""

    def blank(self, value: Any) -> bool:
        """True if there is nothing in the value, so that its sample is left out and counted."""
        del value
        return False

    @abstractmethod
    def digest(self, value: Any) -> bytes:
        """What tells the value from others, for the hash of a split."""

    @abstractmethod
    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        """The columns that hold the feature."""

    @abstractmethod
    def encode(self, value: Any) -> dict[str, Any]:
        """The value as a row of these columns."""

    def labels(self, value: Any) -> Iterator[str]:
        """The names of the classes in the value; nothing for features that have none."""
        del value
        return iter(())


class SymbolCodec(Codec):
    """Texts, tokenized."""

    @property
    def what(self) -> str:
        return "text" if self.spec.parts == 1 else f"({', '.join(['text'] * self.spec.parts)})"

    def texts(self, value: Any) -> tuple[str, ...]:
        return (value,) if self.spec.parts == 1 else tuple(value)

    def fault(self, value: Any) -> str | None:
        whole = isinstance(value, str) if self.spec.parts == 1 else isinstance(value, tuple | list)
        if not whole or not all(isinstance(text, str) for text in self.texts(value)):
            return f"is {value!r:.200}"
        if len(self.texts(value)) != self.spec.parts:
            return f"has {len(value)} texts instead of {self.spec.parts}"
        if not all(_encodable(text) for text in self.texts(value)):
            return "has characters that UTF-8 cannot encode (lone surrogates)"
        return None

    def blank(self, value: Any) -> bool:
        return not all(self.texts(value))

    def digest(self, value: Any) -> bytes:
        return b"".join(text.encode() + b"\n" for text in self.texts(value))

    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        text = pyarrow.string() if self.spec.parts == 1 else pyarrow.list_(pyarrow.string())
        return [(self.name, pyarrow.list_(pyarrow.int32())), (f"{self.name}_text", text)]

    def encode(self, value: Any) -> dict[str, Any]:
        assert self.tokenizer is not None
        ids = [id for text in self.texts(value) for id in encode_with_eos(self.tokenizer, text)]
        return {self.name: ids, f"{self.name}_text": value}


class _LabelCodec(Codec):
    """What the two kinds of labels share: classes by name or id."""

    def __init__(self, spec: FeatureSpec, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(spec, tokenizer)
        self._ids = {name: id for id, name in enumerate(spec.classes)}

    def class_fault(self, value: Any) -> str | None:
        classes = self.spec.classes
        if isinstance(value, str):
            if not value.strip():
                return "is empty"
            if not _encodable(value):
                return "has characters that UTF-8 cannot encode (lone surrogates)"
            if not classes or value in self._ids:
                return None
            return f"is {value!r:.200}, which {is_no_class(classes, value)}"
        if not _is_integer(value):
            return f"is {value!r:.200}"
        if not classes:
            return f"is the id {value}, but the problem does not declare its classes: give their names"
        if not 0 <= value < len(classes):
            return f"is {value}, out of the range of its {len(classes)} classes, 0 to {len(classes) - 1}"
        return None

    def class_name(self, value: Any) -> str:
        return value if isinstance(value, str) else self.spec.classes[value]

    def class_id(self, value: Any) -> int:
        return self._ids[value] if isinstance(value, str) else int(value)


class ClassLabelCodec(_LabelCodec):
    """One class."""

    @property
    def what(self) -> str:
        return "the name of a class, or its id"

    def fault(self, value: Any) -> str | None:
        return self.class_fault(value)

    def digest(self, value: Any) -> bytes:
        return self.class_name(value).encode() + b"\n"

    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        return [(self.name, pyarrow.int32()), (f"{self.name}_text", pyarrow.string())]

    def encode(self, value: Any) -> dict[str, Any]:
        return {self.name: self.class_id(value), f"{self.name}_text": self.class_name(value)}

    def labels(self, value: Any) -> Iterator[str]:
        yield self.class_name(value)


class MultiLabelCodec(_LabelCodec):
    """Any number of classes, none included."""

    @property
    def what(self) -> str:
        return "a list of classes, by name or id"

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, list | tuple | set | frozenset):
            return f"is {value!r:.200}"
        return next((fault for item in value if (fault := self.class_fault(item))), None)

    def _names(self, value: Any) -> list[str]:
        return sorted({self.class_name(item) for item in value})

    def digest(self, value: Any) -> bytes:
        names = self._names(value)
        return f"{len(names)}\n".encode() + b"".join(name.encode() + b"\n" for name in names)

    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        lists = (pyarrow.list_(pyarrow.int32()), pyarrow.list_(pyarrow.string()))
        return [(self.name, lists[0]), (f"{self.name}_text", lists[1])]

    def encode(self, value: Any) -> dict[str, Any]:
        ids = sorted({self.class_id(item) for item in value})
        return {self.name: ids, f"{self.name}_text": [self.spec.classes[id] for id in ids]}

    def labels(self, value: Any) -> Iterator[str]:
        yield from self._names(value)


class RealCodec(Codec):
    """Finite numbers, stored in float32."""

    @property
    def what(self) -> str:
        return f"numbers of shape {list(self.spec.shape)}" if self.spec.shape else "a number"

    def _array(self, value: Any) -> np.ndarray | None:
        """float32 of whatever shape, or None if the value does not consist of numbers."""
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal lengths
            return None
        return array.astype(np.float32) if array.dtype.kind in "iufb" else None

    def fault(self, value: Any) -> str | None:
        with np.errstate(over="ignore"):
            array = self._array(value)
        if array is None:
            return f"is {value!r:.200}"
        if array.shape != self.spec.shape:
            return f"has the shape {list(array.shape)} instead of {list(self.spec.shape)}"
        if not np.isfinite(array).all():
            return f"is {value!r:.200}, which is not finite in float32"
        return None

    def digest(self, value: Any) -> bytes:
        array = self._array(value)
        assert array is not None
        return array.tobytes()

    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        shape = self.spec.shape
        return [(self.name, pyarrow.list_(pyarrow.float32(), math.prod(shape)) if shape else pyarrow.float32())]

    def encode(self, value: Any) -> dict[str, Any]:
        array = self._array(value)
        assert array is not None
        return {self.name: array.ravel() if self.spec.shape else array.item()}


class ImageCodec(Codec):
    """Pixels."""

    @property
    def what(self) -> str:
        return f"a uint8 array of shape {list(self.spec.shape)}"

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, np.ndarray):
            return f"is {value!r:.200}"
        if value.dtype != np.uint8:
            return f"is an array of {value.dtype}"
        if value.shape != self.spec.shape:
            return f"has the shape {list(value.shape)} instead of {list(self.spec.shape)}"
        return None

    def digest(self, value: Any) -> bytes:
        pixels: bytes = value.tobytes()
        return pixels

    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        return [(self.name, pyarrow.binary(math.prod(self.spec.shape)))]

    def encode(self, value: Any) -> dict[str, Any]:
        return {self.name: value.tobytes()}


class CategoryCodec(Codec):
    """The id of a value of a column."""

    @property
    def what(self) -> str:
        return "an id"

    def fault(self, value: Any) -> str | None:
        if not _is_integer(value):
            return f"is {value!r:.200}"
        if not 0 <= value < self.spec.vocab_size:
            return f"is {value}, out of the range of its {self.spec.vocab_size} ids, 0 to {self.spec.vocab_size - 1}"
        return None

    def digest(self, value: Any) -> bytes:
        return f"{value}\n".encode()

    def fields(self) -> list[tuple[str, pyarrow.DataType]]:
        return [(self.name, pyarrow.int32())]

    def encode(self, value: Any) -> dict[str, Any]:
        return {self.name: int(value)}


_CODECS: dict[Modality, type[Codec]] = {
    Modality.SYMBOL: SymbolCodec,
    Modality.CLASS_LABEL: ClassLabelCodec,
    Modality.MULTI_LABEL: MultiLabelCodec,
    Modality.REAL: RealCodec,
    Modality.IMAGE: ImageCodec,
    Modality.CATEGORY: CategoryCodec,
}


def codecs_of(features: Mapping[str, FeatureSpec], tokenizers: Mapping[str, Tokenizer] | None = None) -> list[Codec]:
    """A codec per feature, in their order.

    Args:
        tokenizers: of the SYMBOL features; not needed to check and hash.
    """
    tokenizers = tokenizers or {}
    return [_CODECS[spec.modality](spec, tokenizers.get(name)) for name, spec in features.items()]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
