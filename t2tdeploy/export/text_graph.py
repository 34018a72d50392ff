"""A search with its tokenizers as one ONNX graph: strings in, strings out.

    sources [batch] strings; all else has a default: beam_size, alpha, num_hypotheses, extra_length []
      -> texts [batch, hypotheses] strings, scores, lengths [batch, hypotheses], finished, truncated [batch]

The graph answers as `Translator` does with `truncate`: a blank source has one hypothesis, the empty text; one that is
too long is cut and marked in `truncated`, for a graph cannot refuse a row. Where a row has fewer hypotheses than
asked, the rest have length 0 and score -inf.

SentencePiece comes from onnxruntime-extensions, whose library a session must register. It runs on the CPU. Strings of
onnxruntime end at the first NUL, on the way in and on the way out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from onnx import ModelProto, TensorProto, helper

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.nodes import Array, Nodes, around, gather_rows, option_defaults, option_inputs
from t2tdeploy.export.utf8 import superfluous_bytes
from t2tdeploy.features import EOS_ID, PAD_ID, UNK_ID
from t2tdeploy.tokenizer import ByteTokenizer, Tokenizer

EXTENSIONS = "ai.onnx.contrib"
"""The operator domain of onnxruntime-extensions."""

_OF_THE_SEARCH = ("scores", "lengths", "finished")
_LARGEST_PROTOBUF_BYTES = 2**31 - 1


def text_graph(
    search: ModelProto, *, source: Tokenizer, target: Tokenizer, decode: DecodeDefaults, num_hypotheses: int = 1
) -> ModelProto:
    """The graph of the head of this file, weights included.

    Args:
        search: source ids in, target ids out (export/beam_search.py); further options that have a default are kept.
        decode, num_hypotheses: the defaults.

    Raises:
        OperationalError: the graph is too large for one file, or an option has no default.
    """
    before, after = Nodes("read"), Nodes("write")
    rows = _read(before, sentencepiece_model(source), decode.max_source_length)
    _write(after, target, rows)
    info = helper.make_tensor_value_info
    model = around(
        search,
        before=before,
        after=after,
        inputs=[
            info("sources", TensorProto.STRING, ["batch"]),
            *option_inputs(search),
            info("extra_length", TensorProto.INT64, []),
        ],
        outputs=[
            info("texts", TensorProto.STRING, ["batch", "hypotheses"]),
            info("scores", TensorProto.FLOAT, ["batch", "hypotheses"]),
            info("lengths", TensorProto.INT64, ["batch", "hypotheses"]),
            info("finished", TensorProto.BOOL, ["batch"]),
            info("truncated", TensorProto.BOOL, ["batch"]),
        ],
        defaults=option_defaults(search, decode, num_hypotheses),
        names={name: f"search/{name}" for name in _OF_THE_SEARCH},
        domains=[EXTENSIONS],
    )
    if model.ByteSize() > _LARGEST_PROTOBUF_BYTES:
        raise OperationalError(
            f"the text graph has {model.ByteSize() / 2**30:.1f} GiB; one ONNX file holds 2 GiB",
            help="leave the text graph out",
        )
    return model


def sentencepiece_model(tokenizer: Tokenizer) -> bytes:
    """The SentencePiece model that reads and writes as `tokenizer` does.

    For a byte vocabulary it is one whose only pieces are bytes, so that every character falls back to them.
    """
    if not isinstance(tokenizer, ByteTokenizer):
        return tokenizer.to_bytes()
    schema = _schema()
    kinds = schema.ModelProto.SentencePiece
    model = schema.ModelProto()
    for piece, kind in (("<pad>", kinds.CONTROL), ("</s>", kinds.CONTROL), ("<unk>", kinds.UNKNOWN)):
        model.pieces.add(piece=piece, score=0, type=kind)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=kinds.BYTE)
    # SentencePiece refuses to have no piece of its own. This one is never met: NUL ends every string.
    model.pieces.add(piece="\0", score=0, type=kinds.NORMAL)
    trainer = model.trainer_spec
    trainer.model_type, trainer.byte_fallback = schema.TrainerSpec.CHAR, True
    trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = PAD_ID, EOS_ID, UNK_ID, -1
    trainer.vocab_size = len(model.pieces)
    rules = model.normalizer_spec
    rules.name = "identity"
    rules.add_dummy_prefix = rules.remove_extra_whitespaces = rules.escape_whitespaces = False
    return cast(bytes, model.SerializeToString())


def _schema() -> Any:
    """The protobuf messages of SentencePiece's models, which have no types."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2


class _Rows(NamedTuple):
    """Names of what the search's results are combined with.

    Args:
        sources: [1], how many there are.
        blank, truncated: [rows]; there is a row even if there are no sources.
    """

    sources: str
    blank: str
    truncated: str


def _read(nodes: Nodes, model: bytes, max_source_length: int) -> _Rows:
    """sources -> source_ids, max_length (sentences.py: encode_source, pad_rows)."""
    text = nodes.op(
        "StringRegexReplace", "sources", _strings(_blank_pattern()), _strings(""), domain=EXTENSIONS, global_replace=0
    )
    never = np.array([False])  # beginning, end, reversed
    pieces, offsets = nodes.ops(
        "SentencepieceTokenizer", text, [0], np.array([0], np.float32), never, never, never,
        outputs=["read/pieces", "read/offsets"], domain=EXTENSIONS, model=model,
    )  # fmt: skip
    ids = nodes.op("Cast", pieces, to=TensorProto.INT64)
    count = nodes.op("Shape", "sources")
    # No source at all makes one blank row, which _write leaves out: the search needs a row.
    nothing = nodes.op("Cast", nodes.op("Equal", count, [0]), to=TensorProto.INT64)
    padding = nodes.op("Concat", [0], nothing, axis=0)
    starts = nodes.op("Pad", nodes.op("Slice", offsets, [0], [-1]), padding)
    ends = nodes.op("Pad", nodes.op("Slice", offsets, [1], [2**31 - 1]), padding)
    sizes = nodes.op("Sub", ends, starts)
    longest = nodes.constant([max_source_length - 1])
    kept = nodes.op("Min", sizes, longest)
    blank = nodes.op("Equal", kept, [0])
    gather_rows(nodes, ids, starts, kept, end=EOS_ID, output="source_ids")
    limit = nodes.op("Add", nodes.op("Add", kept, 1), "extra_length")
    nodes.op("Where", blank, 1, limit, output="max_length")
    return _Rows(count, blank, nodes.op("Greater", sizes, longest))


def _write(nodes: Nodes, target: Tokenizer, rows: _Rows) -> None:
    """Results of the search -> outputs (translator.py: Translator.search)."""
    blank = nodes.op("Unsqueeze", rows.blank, [1])
    hypotheses = nodes.op("Shape", "search/lengths", start=1)
    hypothesis = nodes.op("Range", 0, nodes.op("Squeeze", hypotheses), 1)
    first = nodes.op("Equal", hypothesis, [0])
    score = nodes.op("Where", first, np.array(0, np.float32), np.array(-np.inf, np.float32))
    texts = decode_texts(nodes, target, nodes.op("Where", blank, 0, "search/lengths"))
    found = {
        "texts": nodes.op("Reshape", texts, nodes.op("Concat", [-1], hypotheses, axis=0)),
        "scores": nodes.op("Where", blank, score, "search/scores"),
        "lengths": nodes.op("Where", blank, nodes.op("Cast", first, to=TensorProto.INT64), "search/lengths"),
        "finished": nodes.op("Or", rows.blank, "search/finished"),
        "truncated": rows.truncated,
    }
    for name, tensor in found.items():
        nodes.op("Slice", tensor, [0], rows.sources, output=name)


def decode_texts(nodes: Nodes, target: Tokenizer, lengths: str) -> str:
    """target_ids [batch, hypotheses, target_length], lengths [batch, hypotheses] -> texts [batch * hypotheses, 1]."""
    width = nodes.op("Shape", "target_ids", start=2)
    ids = nodes.op("Reshape", "target_ids", nodes.op("Concat", [-1], width, axis=0))
    column = nodes.op("Range", 0, nodes.op("Squeeze", width), 1)
    within = nodes.op("Less", column, nodes.op("Reshape", lengths, [-1, 1]))
    ends = nodes.op("CumSum", nodes.op("Cast", nodes.op("Equal", ids, [EOS_ID]), to=TensorProto.INT32), 1)
    visible = nodes.op("And", within, nodes.op("Equal", ends, np.array([0], np.int32)))
    for silent in _silent_ids(target):
        visible = nodes.op("And", visible, nodes.op("Not", nodes.op("Equal", ids, [silent])))
    count = nodes.op("Squeeze", nodes.op("Shape", ids, start=0, end=1))
    body = _decode_row(target, ids, visible)
    nodes.constants.extend(body.constants)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        body.nodes,
        "decode",
        [info("row/index", TensorProto.INT64, []), info("row/on", TensorProto.BOOL, [])],
        [info("row/go_on", TensorProto.BOOL, []), info("row/text", TensorProto.STRING, [1])],
    )
    return nodes.op("Loop", count, np.array(True), body=graph)


def _decode_row(target: Tokenizer, ids: str, visible: str) -> Nodes:
    """The body of a Loop over rows, for the decoder takes one at a time."""
    nodes = Nodes("row")
    row, mask = nodes.op("Gather", ids, "row/index"), nodes.op("Gather", visible, "row/index")
    pieces = nodes.op("Compress", row, mask)
    if isinstance(target, ByteTokenizer):
        values = nodes.op("Sub", pieces, target.vocab_size - 256)
        pieces = nodes.op("Compress", pieces, nodes.op("Not", superfluous_bytes(nodes, values)))
    model = sentencepiece_model(target)
    nodes.op("SentencepieceDecoder", pieces, output="row/text", domain=EXTENSIONS, model=model)
    nodes.op("Identity", "row/on", output="row/go_on")
    return nodes


def _silent_ids(target: Tokenizer) -> list[int]:
    """Ids that are no text: those that `decode` skips, and the byte NUL, which would end it."""
    if isinstance(target, ByteTokenizer):
        return [PAD_ID, UNK_ID, target.vocab_size - 256]
    pieces = _schema().ModelProto.FromString(target.to_bytes()).pieces
    nul = [index for index, piece in enumerate(pieces) if piece.piece == "<0x00>" and piece.type == piece.BYTE]
    return [PAD_ID, *nul]


def _blank_pattern() -> str:
    """A regular expression (RE2) for a text of nothing but what Python's `str.strip` takes away."""
    space = "".join(f"\\x{{{code:x}}}" for code in range(0x3001) if chr(code).isspace())
    return rf"\A[{space}]+\z"


def _strings(text: str) -> Array:
    return np.array([text], dtype=object)
