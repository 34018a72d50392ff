"""Bytes that are not the message that they should be: what protobuf raises, and what it does not say of them.

One request of a few MiB may hold millions of fields; nothing here makes an object of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

B = TypeVar("B", bytes, memoryview)

UNREADABLE = (DecodeError, UnicodeDecodeError)
"""The second is what protobuf written in Python says of a string that is not UTF-8. It is used where the environment
variable PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION asks for it; some packages set that when they are imported."""

MOST_FIELDS = 10_000
"""That are looked at for the one that is wrong."""
MOST_TOP_FIELDS = 100_000
"""Of a message, those of the messages in it not counted: there may be an input for each column of a wide table."""
_SMALL = 4096  # bytes, in which there are not many fields


def field_of_invalid_text(
    content: bytes, single: Mapping[int, str], repeated: Mapping[int, str] = MappingProxyType({})
) -> str | None:
    """protobuf does not say which string it refused, so the fields are looked at as bytes.

    Args:
        single, repeated: names of the message's strings by field number.

    Returns:
        None: the content is no message, or the string is behind MOST_FIELDS others.
    """
    try:
        Empty.FromString(content)
    except UNREADABLE:
        return None
    seen = Counter[int]()
    for number, text in islice(_fields(content), MOST_FIELDS):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            if number in single:
                return single[number]
            if number in repeated:
                return f"{repeated[number]}[{seen[number]}]"
        seen[number] += 1
    return None


def has_too_many_fields(content: bytes) -> bool:
    """Whether there are more than MOST_TOP_FIELDS; protobuf would make an object of each, and no thread would go on."""
    if len(content) <= 2 * MOST_TOP_FIELDS:  # each has a tag and something after it
        return False
    try:
        Empty.FromString(content)
    except UNREADABLE:
        return False
    return next(islice(_fields(memoryview(content)), MOST_TOP_FIELDS, None), None) is not None


def has_unknown_field(message: Message, content: bytes) -> bool:
    """Whether the message, or one within it, has a field that its description does not have.

    protobuf tells this only by a list of all such fields of each single message. To read a message once more takes less
    time than to copy it; one read anew also knows no size, which protobuf written in Python would keep.

    Args:
        content: that the message was read from.
    """
    known = type(message).FromString(content)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def unknown_field(message: Message) -> int | None:
    """The number of a field that the message's description does not have; None: there is none.

    Copies a large message, so it is for those of which `has_unknown_field` is true, or not known.
    """
    if message.ByteSize() <= _SMALL:
        unknown = UnknownFieldSet(message)
        return unknown[0].field_number if len(unknown) else None
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in rest.ListFields():
        rest.ClearField(field.name)
    content = rest.SerializeToString()
    return _varint(content, 0)[0] >> 3 if content else None


def _fields(content: B) -> Iterator[tuple[int, B]]:
    """Number and bytes of each field, of bytes that are known to be a message; 0 and no bytes for one of a group."""
    place = depth = 0
    while place < len(content):
        tag, place = _varint(content, place)
        size, kind = 0, tag & 7
        if kind == 0:
            place = _varint(content, place)[1]
        elif kind == 2:
            size, place = _varint(content, place)
        else:
            place += {1: 8, 5: 4}.get(kind, 0)
            depth += {3: 1, 4: -1}.get(kind, 0)
        yield (0, content[:0]) if depth else (tag >> 3, content[place : place + size])
        place += size


def _varint(content: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    found = shift = 0
    while (byte := content[place]) & 0x80:
        found |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return found | byte << shift, place + 1
