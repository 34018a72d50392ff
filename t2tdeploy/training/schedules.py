"""Learning-rate schedules: Tensor2Tensor's product of named factors (tensor2tensor/utils/learning_rate.py).

Steps are counted from 1, as in Vaswani et al. 2017; Tensor2Tensor counts from 0, so that its first step learns nothing.
But what falls to 0 counts from 0 as there, so that the last step does not learn nothing instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from t2tdeploy.errors import Fault, SettingsError, nearest
from t2tdeploy.hparams import HParams

Schedule = Callable[[int], float]

_FIELD = "learning_rate_schedule"
_OF_TRAIN_STEPS = ("linear_decay", "single_cycle_cos_decay")


def _constant(hparams: HParams) -> Schedule:
    return lambda _: hparams.learning_rate_constant


def _linear_warmup(hparams: HParams) -> Schedule:
    return lambda step: min(1.0, step / hparams.learning_rate_warmup_steps)


def _linear_decay(hparams: HParams) -> Schedule:
    return lambda step: min(1.0, max(0.0, (hparams.train_steps - (step - 1)) / hparams.learning_rate_decay_steps))


def _rsqrt_decay(hparams: HParams) -> Schedule:
    return lambda step: max(step, hparams.learning_rate_warmup_steps) ** -0.5


def _rsqrt_hidden_size(hparams: HParams) -> Schedule:
    hidden_size = getattr(hparams, "hidden_size", None)
    if hidden_size is None:
        raise _fault(hparams, "factor 'rsqrt_hidden_size' needs a model with a hidden_size")
    return lambda _: float(hidden_size**-0.5)


def _cosdecay(hparams: HParams) -> Schedule:
    def factor(step: int) -> float:
        if step - 1 <= hparams.learning_rate_warmup_steps:
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (step - 1) / hparams.learning_rate_decay_steps))

    return factor


def _single_cycle_cos_decay(hparams: HParams) -> Schedule:
    warmup, last = hparams.learning_rate_warmup_steps, hparams.train_steps
    if last <= warmup:
        raise _fault(hparams, f"factor 'single_cycle_cos_decay' needs train_steps ({last}) > warmup_steps ({warmup})")
    return lambda step: 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0, step - 1 - warmup) / (last - warmup)))


def _exp_decay(hparams: HParams) -> Schedule:
    def factor(step: int) -> float:
        periods = max(0, step - hparams.learning_rate_warmup_steps) / hparams.learning_rate_decay_steps
        return float(rate**periods)

    rate, last = hparams.learning_rate_decay_rate, hparams.train_steps
    try:
        factor(last)
    except OverflowError as error:
        problem = f"greater than 1, 'exp_decay' grows past all numbers before train_steps = {last}"
        fault = Fault("learning_rate_decay_rate", rate, problem)
        raise SettingsError("hparams", [fault], help="a rate that decays is below 1") from error
    return factor


FACTORS: dict[str, Callable[[HParams], Schedule]] = {
    "constant": _constant,
    "linear_warmup": _linear_warmup,
    "linear_decay": _linear_decay,
    "rsqrt_decay": _rsqrt_decay,
    "rsqrt_hidden_size": _rsqrt_hidden_size,
    "cosdecay": _cosdecay,
    "single_cycle_cos_decay": _single_cycle_cos_decay,
    "exp_decay": _exp_decay,
}


def make_schedule(hparams: HParams) -> Schedule:
    """The learning rate as a function of the step, counted from 1.

    With n = step - 1, w = warmup_steps, d = decay_steps, T = train_steps:

        constant                learning_rate_constant
        linear_warmup           min(1, step / w)
        linear_decay            (T - n) / d, held in [0, 1]
        rsqrt_decay             max(step, w)^-0.5
        rsqrt_hidden_size       hidden_size^-0.5
        cosdecay                1 up to n = w, then (1 + cos(pi n / d)) / 2
        single_cycle_cos_decay  1 up to n = w, then one half cosine to 0 at n = T; Tensor2Tensor's is d steps long
        exp_decay               decay_rate^((step - w) / d) from w on

    Raises:
        SettingsError: an unknown factor (with the nearest), or one that does not fit the other hparams.
    """
    names = _names(hparams)
    faults = [
        Fault(_FIELD, name, f"no such factor; valid choices: {', '.join(FACTORS)}", nearest(name, FACTORS))
        for name in names
        if name not in FACTORS
    ]
    if faults:
        raise SettingsError("hparams", faults, help="join factors by *, e.g. constant*linear_warmup*rsqrt_decay")
    factors = [FACTORS[name](hparams) for name in names]
    return lambda step: math.prod(factor(step) for factor in factors)


def schedule_change(hparams: HParams, before: int | None, step: int) -> str | None:
    """What to tell of a run that has done `step` steps and goes on with other train_steps.

    Args:
        before: its train_steps until now; None if they are the same.

    Returns:
        None if the learning rate does not depend on them, or nothing is left to train.
    """
    names = [name for name in _names(hparams) if name in _OF_TRAIN_STEPS]
    if before is None or not names or not 0 < step < hparams.train_steps:
        return None
    last, following = make_schedule(hparams.replace(train_steps=before))(step), make_schedule(hparams)(step + 1)
    return (
        f"train_steps is {hparams.train_steps}, not {before}, and {' and '.join(names)} of the learning rate depends "
        f"on it: after {last:.3g} in step {step} comes {following:.3g}"
    )


def _names(hparams: HParams) -> list[str]:
    """Of the factors."""
    return [name.strip() for name in hparams.learning_rate_schedule.split("*")]


def _fault(hparams: HParams, problem: str) -> SettingsError:
    return SettingsError("hparams", [Fault(_FIELD, hparams.learning_rate_schedule, problem)])
