"""What torch says when a model cannot become a graph, as one error that names the operator and its place."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from t2tdeploy.errors import DifferentiationError, T2TDeployError

_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch.fx.experimental",
    "torch._subclasses.fake_tensor",
    "onnxscript",
    "onnx_ir",
)
_INSIDE = (Path(torch.__file__).parent, Path(__file__).parent)
# As torch writes operators in its messages: aten.foo.default, aten::foo.
_OPERATOR = re.compile(r"\b([A-Za-z_]\w*)(?:\.|::)(\w+)")
_TRANSLATED = re.compile(r"call_function\[target=(?:torch\.ops\.)?([\w.]+)\]")


def tracing_faults(module: nn.Module) -> AbstractContextManager[None]:
    """Turns any exception of torch.export into a DifferentiationError with the place in `module` where it arose."""
    return _faults(module, "torch.export cannot trace it")


def evaluation_faults(module: nn.Module) -> AbstractContextManager[None]:
    """As `tracing_faults`, of the export of a forward pass alone; or with the operator that has no translation."""
    return _faults(module, "its evaluation cannot be exported")


def example_faults(module: nn.Module) -> AbstractContextManager[None]:
    """As `tracing_faults`, of what torch computes of an example."""
    return _faults(module, "it cannot be computed of an example")


@contextmanager
def _faults(module: nn.Module, what: str) -> Iterator[None]:
    with quiet():
        try:
            yield
        except Exception as error:
            chain = [*_causes(error)]
            for cause in chain:
                if isinstance(cause, T2TDeployError):
                    raise cause from None
            exporter = [cause for cause in chain if type(cause).__module__.startswith("torch.onnx")]
            if operator := _translated(exporter):
                raise DifferentiationError(_without_translation(operator, chain[-1]), operator=operator) from error
            # The exporter's own exceptions say only that there was another one.
            cause = next((one for one in chain if one not in exporter), chain[-1])
            path, line = _place(cause.__traceback__, module)
            raise DifferentiationError(f"{what}{line}: {_tracing_problem(cause)}", module_path=path) from error


@contextmanager
def differentiation_faults(graph: fx.Graph) -> Iterator[None]:
    """Turns any exception of AOTAutograd into a DifferentiationError with the operator of `graph` that it names."""
    with quiet():
        try:
            yield
        except Exception as error:
            operator, path = _named_operator(str(error), graph)
            reason = f"it cannot be differentiated: {_first_line(error)}"
            raise DifferentiationError(reason, operator=operator, module_path=path) from error


@contextmanager
def translation_faults(graph: fx.Graph) -> Iterator[None]:
    """Turns any exception of torch.onnx into a DifferentiationError with the operator that has no translation."""
    with quiet():
        try:
            yield
        except Exception as error:
            chain = [*_causes(error)]
            operator = _translated(chain)
            path = next((module_path(node) for node in graph.nodes if str(node.target) == operator), None)
            reason = _without_translation(operator, chain[-1])
            raise DifferentiationError(reason, operator=operator, module_path=path) from error


def refuse_random_numbers_of_unknown_count(graph: fx.Graph) -> None:
    """Their masks are inputs, and drawn before a run.

    Raises:
        DifferentiationError: how many random numbers an operator of `graph` draws depends on the values of tensors.
    """
    for node in graph.nodes:
        if _is_random(node.target) and free_unbacked_symbols(node.meta["val"]):
            raise DifferentiationError(
                "how many random numbers it draws depends on the values of tensors, as behind x[mask] and nonzero",
                operator=str(node.target),
                module_path=module_path(node),
            )


def _is_random(operator: Any) -> bool:
    return isinstance(operator, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in operator.tags


def _translated(chain: Sequence[BaseException]) -> str | None:
    """The operator that torch.onnx was translating, if one of these says so."""
    found = next((match for one in chain if (match := _TRANSLATED.search(str(one)))), None)
    return found[1] if found else None


def _without_translation(operator: str | None, detail: BaseException) -> str:
    if isinstance(detail, NotImplementedError) and str(detail):
        return f"it has no translation to ONNX with {_first_line(detail)}"
    return "it has no translation to ONNX" if operator else f"torch.onnx cannot translate it: {_first_line(detail)}"


def module_path(node: fx.Node) -> str | None:
    """The path of the module whose forward pass made a node, or for a backward node its forward node."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    path: Any = list(stack.values())[-1][0] if stack else None
    return path or None


@contextmanager
def quiet() -> Iterator[None]:
    """torch and its exporter log and print what is of no concern here, or what the error says in short."""
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _first_line(error: BaseException) -> str:
    name = type(error).__name__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), name)
    return f"{name}: {line}" if isinstance(error, KeyError) else line  # which says no more than the key


def _named_operator(message: str, graph: fx.Graph) -> tuple[str | None, str | None]:
    """The operator of `graph` that a message names, and its module's path."""
    for namespace, name in _OPERATOR.findall(message):
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target).startswith(f"{namespace}.{name}."):
                return str(node.target), module_path(node)
    return None, None


def _tracing_problem(error: BaseException) -> str:
    lines = str(error).splitlines()
    if "data-dependent" in str(error):
        return "what it computes depends on the values of tensors, as in `if x.sum() > 0`"
    details = [line.strip(" -") for line in lines if line.strip().startswith("- ")]
    if lines and lines[0].startswith("Constraints violated"):
        return "a dynamic axis does not suit it: " + "; ".join(details)
    return _first_line(error)


def _place(traceback: TracebackType | None, module: nn.Module) -> tuple[str | None, str]:
    """The innermost module of `module` in a traceback, and the innermost line of neither torch nor us, as text."""
    paths = {id(part): path for path, part in module.named_modules()}
    path, line = None, ""
    for frame, number in walk_tb(traceback):
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        if id(owner) in paths:
            path = paths[id(owner)] or None
        if id(owner) in paths or line:
            outside = not any(Path(code.co_filename).is_relative_to(folder) for folder in _INSIDE)
            line = f" ({code.co_filename}:{number})" if outside else line
    return path, line
