"""A client that watches health by HTTP/2 and grants the server no window to answer in."""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4


def silent_watcher(port: int) -> socket.socket:
    """A connection whose Health/Watch the server has begun to answer, and can never answer further."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Watch",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0))
        + _frame(_HEADERS, _END_HEADERS, 1, b"".join(map(_field, fields, fields.values())))
        + _frame(_DATA, _END_STREAM, 1, bytes(5))  # a HealthCheckRequest without a name
    )
    answer = connection.makefile("rb")
    while True:
        head = answer.read(9)
        answer.read(int.from_bytes(head[:3]))
        if head[3] == _HEADERS:
            return connection


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def _field(name: str, value: str) -> bytes:
    """HPACK's plainest form: a literal that is not remembered, without Huffman coding."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))
