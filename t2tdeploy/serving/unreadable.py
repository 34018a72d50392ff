"""What protobuf raises of bytes that are not the message that they should be."""

from __future__ import annotations

from google.protobuf.message import DecodeError

UNREADABLE = (DecodeError, UnicodeDecodeError)
"""The second is what protobuf written in Python says of a string that is not UTF-8. It is used where the environment
variable PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION asks for it; some packages set that when they are imported."""
