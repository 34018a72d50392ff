"""Update rules by name, from torch.optim, and their state as flat name -> tensor dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Optimizer

from t2tdeploy.hparams import HParams

Parameters = list[nn.Parameter]
Names = Mapping[Tensor, str]  # parameter -> its name in the model


def _adam(parameters: Parameters, hparams: HParams) -> Optimizer:
    betas = (hparams.optimizer_adam_beta1, hparams.optimizer_adam_beta2)
    return Adam(parameters, lr=0.0, betas=betas, eps=hparams.optimizer_adam_epsilon, fused=True)


def _adamw(parameters: Parameters, hparams: HParams) -> Optimizer:
    betas = (hparams.optimizer_adam_beta1, hparams.optimizer_adam_beta2)
    decay = hparams.weight_decay
    return AdamW(parameters, lr=0.0, betas=betas, eps=hparams.optimizer_adam_epsilon, weight_decay=decay, fused=True)


def _adafactor(parameters: Parameters, hparams: HParams) -> Optimizer:
    # torch squares the first: 1e-30, as in the paper, where its default of 1e-7 would hold back small gradients.
    return Adafactor(parameters, lr=0.0, eps=(1e-15, 1e-3), weight_decay=hparams.weight_decay)


def _momentum(parameters: Parameters, hparams: HParams) -> Optimizer:
    momentum = hparams.optimizer_momentum
    nesterov = hparams.optimizer_nesterov and momentum > 0.0  # without momentum torch knows no such form
    return SGD(parameters, lr=0.0, momentum=momentum, nesterov=nesterov, weight_decay=hparams.weight_decay, fused=True)


def _sgd(parameters: Parameters, hparams: HParams) -> Optimizer:
    return SGD(parameters, lr=0.0, weight_decay=hparams.weight_decay, fused=True)


def _adagrad(parameters: Parameters, _: HParams) -> Optimizer:
    fused = all(parameter.device.type == "cpu" for parameter in parameters)  # torch has no fused Adagrad on CUDA
    return Adagrad(parameters, lr=0.0, initial_accumulator_value=0.1, fused=fused or None)


OPTIMIZERS: dict[str, Callable[[Parameters, HParams], Optimizer]] = {
    "adam": _adam,  # Kingma and Ba 2015
    "adamw": _adamw,  # Loshchilov and Hutter 2019
    "adafactor": _adafactor,  # Shazeer and Stern 2018
    "momentum": _momentum,  # Sutskever et al. 2013 (Nesterov's form)
    "sgd": _sgd,
    "adagrad": _adagrad,  # Duchi et al. 2011; accumulators start at 0.1, as in TensorFlow
}


def make_optimizer(parameters: Iterable[nn.Parameter], hparams: HParams) -> Optimizer:
    """The update rule `hparams.optimizer` over `parameters`, fused where torch can.

    The learning rate is 0 until `set_learning_rate`: schedules decide it, step by step.
    """
    return OPTIMIZERS[hparams.optimizer](list(parameters), hparams)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Takes `learning_rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_state(optimizer: Optimizer, names: Names) -> dict[str, Tensor]:
    """The state as `parameter name/state name` -> tensor, e.g. `embedding.weight/exp_avg`."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(optimizer: Optimizer, names: Names, state: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_state` gave for an optimizer over parameters of the same names."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_index: dict[int, dict[str, Tensor]] = {}
    index_of = {names[parameter]: index for index, parameter in enumerate(parameters)}
    for name, value in state.items():
        parameter_name, key = name.rsplit("/", 1)
        # load_state_dict keeps tensors that already have the right type: a copy, so that steps leave `state` alone.
        by_index.setdefault(index_of[parameter_name], {})[key] = torch.clone(value)
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})
