"""A search that chooses from a shortlist: the output layer has only columns that a translation may need.

Half of the time of a step for one sentence goes into logits of the whole vocabulary, nearly all of which cannot follow
from the source. A lexicon (lexicon.py) says which can, as Marian's lexical shortlists (Junczys-Dowmunt et al. 2018) and
CTranslate2's vocabulary maps do. The columns of all sentences of a batch are gathered once for each search. Unlike in
these, a sentence does not choose from what its neighbours brought along, so its result does not depend on the batch.

What is allowed is decided for each row of the batch, forced prefixes included. Probabilities are of that set, so scores
are higher than those of the whole vocabulary. A step that looks at the controls spreads them over all ids again.

    open [open_ids]                     ids that some row may choose, in order
    bias [batch, 1, open_ids]           0 where the row may, else -inf
    place [vocab]                       of each id among the open ones; open_ids: not there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from t2tdeploy.errors import OperationalError
from t2tdeploy.export.lexicon import Lexicon
from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.export.nodes import Nodes
from t2tdeploy.export.placement import lifted
from t2tdeploy.export.weights import remove_unused
from t2tdeploy.features import PAD_ID

_OPEN, _BIAS, _PLACE = (f"shortlist/{name}" for name in ("open", "bias", "place"))


def shortlisted(model: ModelProto, lexicon: Lexicon) -> ModelProto:
    """A copy of a search graph (export/beam_search.py, in float32 or 8 bits) that chooses from `lexicon`.

    Raises:
        OperationalError: the logits are not one product with a matrix of the graph.
    """
    copy = lifted(model)
    graph = copy.graph
    segments = _node(graph, "segments")
    segment = _subgraph(segments, "body")
    search = _node(segment, "search")
    step = _subgraph(search, "body")
    layer = _output_layer(graph, step)
    outside = Nodes("shortlist")
    _choose_ids(outside, lexicon, _vocab_size(graph, layer))
    _take_columns(outside, graph, layer)
    _mask(graph, segment, search, step, layer)
    _insert_before(graph, segments, outside.nodes)
    graph.initializer.extend(outside.constants)
    remove_unused(graph)
    return copy


class _OutputLayer(NamedTuple):
    """Where a step's log-probabilities come from.

    Attributes:
        softmax, product: log_probs = softmax(product).
        weight: the product's matrix in 8 bits: the DequantizeLinear that makes it; None: it is one of floats.
        rows: name of the initializer that holds it, [vocab, hidden] or its transpose.
        transposed: it is the transpose.
    """

    softmax: NodeProto
    product: NodeProto
    weight: NodeProto | None
    rows: str
    transposed: bool


def _output_layer(graph: GraphProto, step: GraphProto) -> _OutputLayer:
    makers = {name: node for scope in (graph, step) for node in scope.node for name in node.output}
    softmax = makers["log_probs"]
    product = makers.get(softmax.input[0])
    if product is not None and product.op_type == "MatMul":
        weight = makers.get(product.input[1])
        if weight is None or weight.op_type != "DequantizeLinear":
            weight = None
        matrix = product.input[1] if weight is None else weight.input[0]
        turned = makers.get(matrix)
        rows = turned.input[0] if turned is not None and turned.op_type == "Transpose" else matrix
        if any(tensor.name == rows for tensor in graph.initializer):
            return _OutputLayer(softmax, product, weight, rows, transposed=rows == matrix)
    raise OperationalError(
        "a shortlist needs logits that are the product of a state and a matrix, and this model makes them otherwise",
        help="leave the shortlist out",
    )


def _vocab_size(graph: GraphProto, layer: _OutputLayer) -> int:
    return int(_tensor(graph, layer.rows).dims[int(layer.transposed)])


def _choose_ids(outside: Nodes, lexicon: Lexicon, size: int) -> None:
    """Makes `_OPEN`, `_BIAS` and `_PLACE`."""
    op = outside.op
    table = lexicon.table.astype(np.uint16 if size <= 2**16 else np.int32)
    table[PAD_ID] = PAD_ID  # else it would matter how long the neighbours are
    likely = op("Cast", op("Gather", table, "source_ids"), to=TensorProto.INT64)
    ids = op("Concat", op("Reshape", likely, [0, -1]), "row_prefix", axis=1)
    always = np.zeros((1, size), np.uint8)
    always[0, lexicon.always] = 1
    blank = op("Expand", always, op("Concat", "batch_size", "one", axis=0))
    allowed = op("ScatterElements", blank, ids, op("Expand", np.ones(1, np.uint8), op("Shape", ids)), axis=1)
    op("Reshape", op("NonZero", op("ReduceMax", allowed, [0], keepdims=0)), [-1], output=_OPEN)
    own = op("Cast", op("Unsqueeze", op("Gather", allowed, _OPEN, axis=1), [1]), to=TensorProto.BOOL)
    op("Where", own, "certain", "never", output=_BIAS)
    count = op("Size", _OPEN)
    op("ScatterElements", op("Expand", count, [size]), _OPEN, op("Range", 0, count, 1), axis=0, output=_PLACE)


def _take_columns(outside: Nodes, graph: GraphProto, layer: _OutputLayer) -> None:
    """Gives the product the columns of `_OPEN` alone. Rows are stored, because these are gathered in whole."""
    rows = layer.rows
    if layer.transposed:
        turned = np.ascontiguousarray(numpy_helper.to_array(_tensor(graph, rows)).T)
        rows = outside.constant(turned)
    columns = outside.op("Transpose", outside.op("Gather", rows, _OPEN, axis=0), perm=[1, 0])
    if layer.weight is None:
        layer.product.input[1] = columns
        return
    of_columns = [outside.op("Gather", name, _OPEN, axis=0) for name in layer.weight.input[1:]]
    layer.weight.input[:] = [columns, *of_columns]


def _mask(graph: GraphProto, segment: GraphProto, search: NodeProto, step: GraphProto, layer: _OutputLayer) -> None:
    """Leaves each row its own ids, and gives those that are chosen their names."""
    of_rows = Nodes("shortlist_rows")
    own = of_rows.op("Gather", _BIAS, "rows", axis=0)
    _insert_before(segment, search, of_rows.nodes)
    masked = Nodes("shortlist_step")
    logits = masked.op("Add", layer.softmax.input[0], own)
    _insert_before(step, layer.softmax, masked.nodes)
    layer.softmax.input[0] = logits
    short = layer.softmax.output[0] = "short_log_probs"
    choose = _node(step, "if_constrained")
    plain, controlled = _subgraph(choose, "else_branch"), _subgraph(choose, "then_branch")
    rename_tensors(plain, {"log_probs": short, "plain_chosen_ids": "plain_chosen_places"})
    names = Nodes("shortlist_names")
    names.op("Gather", _OPEN, "plain_chosen_places", axis=0, output="plain_chosen_ids")
    plain.node.extend(names.nodes)

    spread = Nodes("shortlist_spread")
    padded = spread.op("Pad", short, [0, 0, 0, 0, 0, 1], "never")
    spread.op("Gather", padded, _PLACE, axis=2, output="log_probs")
    _insert_before(controlled, controlled.node[0], spread.nodes)
    graph.initializer.extend(spread.constants)


def _node(graph: GraphProto, name: str) -> NodeProto:
    return next(node for node in graph.node if node.name == name)


def _subgraph(node: NodeProto, name: str) -> GraphProto:
    return next(attribute.g for attribute in node.attribute if attribute.name == name)


def _tensor(graph: GraphProto, name: str) -> TensorProto:
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def _insert_before(graph: GraphProto, node: NodeProto, nodes: Sequence[NodeProto]) -> None:
    place = next(place for place, one in enumerate(graph.node) if one.name == node.name and one.output == node.output)
    for new in reversed(nodes):
        graph.node.insert(place, new)
