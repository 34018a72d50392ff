"""Search graphs that several tests look at, each exported once per session."""

from __future__ import annotations

from functools import cache

import onnx

from t2tdeploy.decoding import SearchControls
from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.static_search import export_static_search
from t2tdeploy.models.static import StaticSearch
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.tokenizer import ByteTokenizer
from tests.models.tiny import tiny_transformer

STATIC_VOCAB = 40
STATIC = StaticSearch(beam_size=4, alpha=0.6, num_hypotheses=2, extra_length=6)
CONTROLLED = StaticSearch(
    beam_size=4,
    alpha=0.6,
    num_hypotheses=2,
    extra_length=6,
    controls=SearchControls(
        suppressed=(7, 9), repetition_penalty=1.3, no_repeat_ngram_size=2, coverage_penalty=0.2, patience=1.0
    ),
    min_length=4,
    prefix=(5,),
)


TINY_VOCAB = 40


@cache
def tiny_model() -> Transformer:
    """Two layers each, one vocabulary of `TINY_VOCAB`."""
    return tiny_transformer(TINY_VOCAB, seed=11)


@cache
def tiny_graph() -> onnx.ModelProto:
    """The search of `tiny_model`, with the past of caches apart as in large models. Copy it before you change it."""
    return export_beam_search(tiny_model(), apart=True)


@cache
def byte_model() -> Transformer:
    """A tiny model of bytes."""
    return tiny_transformer(ByteTokenizer.vocab_size, seed=3)


@cache
def byte_graph(*, apart: bool | None = None) -> onnx.ModelProto:
    """The search of `byte_model`; with the past of caches apart, if asked. Copy it before you change it."""
    return export_beam_search(byte_model(), apart=apart)


@cache
def static_byte_graph(beam_size: int = 3, extra_length: int = 5) -> onnx.ModelProto:
    """The search of `byte_model` with fixed sizes and one hypothesis. Copy it before you change it."""
    return export_static_search(byte_model(), StaticSearch(beam_size, 0.6, 1, extra_length))


@cache
def static_model() -> Transformer:
    """Of one layer each, because its search is exported twice."""
    return tiny_transformer(STATIC_VOCAB, seed=11, layers=1)


@cache
def static_graph(search: StaticSearch = STATIC) -> onnx.ModelProto:
    """The search of `static_model` with fixed sizes. Copy it before you change it."""
    return export_static_search(static_model(), search)
