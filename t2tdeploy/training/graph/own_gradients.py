"""Gradients that a model makes or changes itself: torch.export forgets them without a word, so they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from t2tdeploy.errors import DifferentiationError

_HOOKS_OF_MODULES = ("_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_ON_TENSORS = ("register_hook", "register_post_accumulate_grad_hook")


@contextmanager
def refusing_own_gradients(module: nn.Module) -> Iterator[None]:
    """Around the tracing of `module`.

    Raises:
        DifferentiationError: it has a hook on gradients, makes one, or calls a torch.autograd.Function.
    """
    refuse_gradient_hooks(module)
    true = vars(torch.autograd.Function)["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if _is_of_torch(cls):
            return true.__func__(cls, *args, **kwargs)
        raise _of_a_function(cls)

    def register(tensor: Tensor, hook: Any) -> Any:
        raise _of_a_hook("a tensor")

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)))
        for cls in _functions(torch.autograd.Function):  # whose `apply` may have been kept: step = Step.apply
            stack.enter_context(mock.patch.object(cls, "forward", staticmethod(partial(_refuse, cls))))
        for name in _ON_TENSORS:
            stack.enter_context(mock.patch.object(Tensor, name, register))
        yield


def _functions(cls: type) -> Iterator[type]:
    """All classes of users below `cls`."""
    direct: list[type] = type.__subclasses__(cls)
    for below in direct:
        if not _is_of_torch(below):
            yield below
        yield from _functions(below)


def _is_of_torch(cls: type) -> bool:
    """For example what torch.library makes of an operator."""
    return cls.__module__.partition(".")[0] == "torch"


def _refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
    raise _of_a_function(cls)


def _of_a_function(cls: type) -> DifferentiationError:
    return DifferentiationError(
        "torch.export does not keep the gradient of a torch.autograd.Function, only that of an operator made by "
        "torch.library.custom_op",
        operator=f"{cls.__module__}.{cls.__qualname__}",
    )


def refuse_gradient_hooks(module: nn.Module) -> None:
    """
    Raises:
        DifferentiationError: a module or parameter has a hook on gradients.
    """
    for path, part in module.named_modules():
        if any(getattr(part, name) for name in _HOOKS_OF_MODULES):
            raise _of_a_hook("a module", path)
    for path, parameter in module.named_parameters():
        if any(getattr(parameter, name, None) for name in _HOOKS_OF_TENSORS):
            raise _of_a_hook(f"the parameter {path}")


def _of_a_hook(where: str, path: str | None = None) -> DifferentiationError:
    return DifferentiationError(
        f"{where} has a hook on gradients, which torch.export does not keep", module_path=path or None
    )
