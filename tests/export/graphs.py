"""Search graphs that several tests look at, each exported once per session."""

from __future__ import annotations

from functools import cache

import onnx

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.tokenizer import ByteTokenizer
from tests.models.tiny import tiny_transformer


@cache
def byte_graph() -> onnx.ModelProto:
    """Of a tiny model of bytes. Copy it before you change it."""
    return export_beam_search(tiny_transformer(ByteTokenizer.vocab_size, seed=3))
