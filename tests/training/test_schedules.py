"""Every factor against its formula, written anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from t2tdeploy.errors import SettingsError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.transformer_hparams import TransformerHParams, transformer_base
from t2tdeploy.training.schedules import FACTORS, make_schedule, schedule_change

WARMUP, DECAY, TOTAL = 50, 400, 1000
HPARAMS = TransformerHParams.create(
    {
        "hidden_size": 64,
        "num_heads": 4,
        "train_steps": TOTAL,
        "learning_rate_constant": 0.3,
        "learning_rate_warmup_steps": WARMUP,
        "learning_rate_decay_steps": DECAY,
        "learning_rate_decay_rate": 0.5,
    }
)
EXPECTED: dict[str, Callable[[int], float]] = {
    "constant": lambda _: 0.3,
    "linear_warmup": lambda n: n / 50 if n < 50 else 1.0,
    "linear_decay": lambda n: 1.0 if n <= 601 else max(0.0, (1001 - n) / 400),
    "rsqrt_decay": lambda n: 1 / math.sqrt(n) if n > 50 else 1 / math.sqrt(50),
    "rsqrt_hidden_size": lambda _: 1 / 8,
    "cosdecay": lambda n: 1.0 if n <= 51 else math.cos(math.pi * (n - 1) / 800) ** 2,
    "single_cycle_cos_decay": lambda n: 1.0 if n <= 51 else math.cos(math.pi * (min(n, 1001) - 51) / 1900) ** 2,
    "exp_decay": lambda n: 1.0 if n <= 50 else math.exp(-math.log(2) * (n - 50) / 400),
}


@pytest.mark.parametrize("factor", FACTORS)
def test_factor_follows_its_formula(factor: str) -> None:
    schedule = make_schedule(HPARAMS.replace(learning_rate_schedule=factor))
    for step in (1, 2, 49, 50, 51, 52, 200, 599, 601, 602, 999, 1000, 1001, 1500):
        assert schedule(step) == pytest.approx(EXPECTED[factor](step), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("warmup", "steps"), [(WARMUP, TOTAL), (1, 2), (1, 10), (99, 100)])
def test_every_step_of_a_run_learns(factor: str, warmup: int, steps: int) -> None:
    """Also the first, where a warmup rises from 0, and the last, where a decay as long as the run falls to it."""
    hparams = HPARAMS.replace(
        learning_rate_schedule=factor,
        learning_rate_warmup_steps=warmup,
        learning_rate_decay_steps=steps,
        train_steps=steps,
    )
    schedule = make_schedule(hparams)
    assert min(schedule(step) for step in range(1, steps + 1)) > 1e-7


@pytest.mark.parametrize(
    ("factor", "theirs"),
    [
        ("linear_decay", lambda n: min(1.0, max(0.0, (TOTAL - n) / DECAY))),
        ("cosdecay", lambda n: 1.0 if n <= WARMUP else 0.5 * (1 + math.cos(math.pi * n / DECAY))),
    ],
)
def test_what_falls_to_0_is_step_for_step_that_of_tensor2tensor(factor: str, theirs: Callable[[int], float]) -> None:
    """Whose first step is number 0."""
    schedule = make_schedule(HPARAMS.replace(learning_rate_schedule=factor))
    for number in range(TOTAL):
        assert schedule(number + 1) == pytest.approx(theirs(number), rel=1e-9, abs=1e-12)


def test_every_factor_is_tested() -> None:
    assert set(EXPECTED) == set(FACTORS)


def test_transformer_base_peaks_where_the_paper_says() -> None:
    schedule = make_schedule(transformer_base())
    rates = {step: schedule(step) for step in range(1, 20_000)}
    assert max(rates, key=rates.__getitem__) == 8000
    assert rates[8000] == pytest.approx(9.88e-4, rel=1e-3)
    assert rates[16_000] == pytest.approx(2.0 * 512**-0.5 * 16_000**-0.5)


def test_factors_multiply() -> None:
    schedule = make_schedule(HPARAMS.replace(learning_rate_schedule="constant * linear_warmup*exp_decay"))
    assert schedule(250) == pytest.approx(0.3 * EXPECTED["exp_decay"](250))


@pytest.mark.parametrize("factor", FACTORS)
def test_other_train_steps_are_told_of_where_they_change_the_schedule(factor: str) -> None:
    schedule = f"constant*{factor}"
    short = HPARAMS.replace(learning_rate_schedule=schedule)
    long = short.replace(train_steps=2 * TOTAL)
    depends = any(make_schedule(short)(step) != make_schedule(long)(step) for step in range(1, TOTAL + 1))
    told = schedule_change(long, TOTAL, TOTAL)
    assert (told is not None) == depends
    if told is not None:
        assert told.startswith(f"train_steps is {2 * TOTAL}, not {TOTAL}, and {factor} of the learning rate depends on")
        last, then = make_schedule(short)(TOTAL), make_schedule(long)(TOTAL + 1)
        assert told.endswith(f"after {last:.3g} in step {TOTAL} comes {then:.3g}")


def test_unknown_factors_are_named_with_the_nearest() -> None:
    with pytest.raises(SettingsError) as error:
        make_schedule(HPARAMS.replace(learning_rate_schedule="constant*linear_warm*rsqrt"))
    assert [fault.value for fault in error.value.faults] == ["linear_warm", "rsqrt"]
    assert error.value.faults[0].nearest == "linear_warmup"


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingsError, match="hidden_size"):
        make_schedule(HParams())
    with pytest.raises(SettingsError, match="train_steps"):
        make_schedule(HPARAMS.replace(learning_rate_schedule="single_cycle_cos_decay", train_steps=50))


def test_a_decay_that_grows_past_all_numbers_is_refused_and_no_other() -> None:
    growing = HPARAMS.replace(learning_rate_schedule="exp_decay", learning_rate_decay_rate=1e20)
    make_schedule(growing)(TOTAL)
    with pytest.raises(SettingsError, match=r"learning_rate_decay_rate = 1e\+20: .* train_steps = 100000") as error:
        make_schedule(growing.replace(train_steps=100_000))
    assert "below 1" in (error.value.help or "")
