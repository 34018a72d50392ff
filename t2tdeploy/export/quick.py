"""torch.onnx.export without what it does again each time, and Python without looking for garbage meanwhile.

The graphs are the same, but for products with vectors (vectors.py) and constants near 0 or 1 (exact_constants.py). The
shortcuts reach into parts of torch 2.13 that are not public; where those cannot be imported, torch exports as it does
alone.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import fx

from t2tdeploy.export.exact_constants import exact_constants
from t2tdeploy.export.vectors import spell_out_vectors

try:
    from onnxscript.values import TracedOnnxFunction
    from torch.onnx._internal.exporter._registration import ONNXRegistry
    from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter, get_type_promotion_rule

    _from_torchlib = ONNXRegistry.from_torchlib
except (ImportError, AttributeError):
    _from_torchlib = None  # type: ignore[assignment]


def export_quickly(*args: Any, **options: Any) -> torch.onnx.ONNXProgram:
    """`torch.onnx.export(…, dynamo=True, verbose=False)`, sooner, without products that onnxruntime mistakes, and with
    all constants.

    Raises:
        torch.onnx.OnnxExporterError: an operator cannot be expressed in ONNX.
    """
    with exact_constants(), contextlib.ExitStack() as stack:
        if _from_torchlib is not None:
            stack.enter_context(mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(_registry)))
            stack.enter_context(mock.patch.object(_TypePromotionInterpreter, "run_node", _promoted))
        program = torch.onnx.export(*args, dynamo=True, verbose=False, **options)
    assert program is not None
    spell_out_vectors(program.model)
    return program


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of objects that live until its end: whoever looks through them finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _registry(**options: Any) -> Any:
    """The translations of torch's operators, to which an export may add its own."""
    kept, copy = _read_registry(**options), ONNXRegistry()
    copy._opset_version = kept._opset_version
    copy.functions = {operator: list(translations) for operator, translations in kept.functions.items()}
    return copy


@cache
def _read_registry(**options: Any) -> Any:
    """torch's own, whose reading asks five hundred functions for their domain: each would parse its source for that."""
    domain = property(lambda function: function.opset)  # whose domain is the function's
    with mock.patch.object(TracedOnnxFunction, "function_ir", domain):
        return _from_torchlib(**options)


def _promoted(self: Any, node: fx.Node) -> Any:
    """The interpreter's `run_node`, which runs a node only to learn its value: a traced node has it noted."""
    with self._set_current_node(node):
        rule = get_type_promotion_rule(node, self.type_promotion_table)
        if rule is not None:
            self._maybe_promote_node(node, rule)
    value = node.meta.get("val") if node.op == "call_function" else None
    return fx.Interpreter.run_node(self, node) if value is None else value
