"""Which model and hyperparameters a training run gets: what the user says, else what model and problem would like."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from t2tdeploy.hparams import HParams
    from t2tdeploy.problems.problem import Problem
    from t2tdeploy.progress import Reporter
    from t2tdeploy.settings import Assignment


class Recipe(NamedTuple):
    """A model by name, its hyperparameters, and the named set that they derive from, if it has a name."""

    model: str
    hparams: HParams
    hparams_set: str | None


def recipe(
    problem: type[Problem],
    model: str | None,
    hparams_set: str | None,
    overrides: str,
    train_steps: int | None,
    reporter: Reporter,
) -> Recipe:
    """The set, then the problem's own wishes, then the user's; tells what was chosen for the user.

    Raises:
        UnknownNameError: there is no such model or set.
        UserError: the set is of another model's hyperparameters.
        SettingsError: a faulty override.
    """
    from t2tdeploy import registry

    name = model or _default_model(problem)
    model_class = registry.models.get(name)
    set_name = hparams_set or model_class.default_hparams_set
    hparams = _of_set(set_name, name) if set_name else model_class.hparams_class.create({})
    if model is None or hparams_set is None:
        reporter.message(f"model {name}, hparams set {set_name or 'none: the defaults of its fields'}")
    wished = hparams.assign(_wishes(problem, model_class.hparams_class))
    chosen = wished.override(overrides)
    chosen = chosen if train_steps is None else chosen.replace(train_steps=train_steps)
    final = chosen.model_dump(mode="json")
    kept = [f"{name}={value}" for name, (value, _) in wished.differences(hparams).items() if final[name] == value]
    if kept:
        reporter.message(f"{problem.name} sets {', '.join(kept)}")
    return Recipe(name, chosen, set_name)


def _default_model(problem: type[Problem]) -> str:
    return problem.default_model or ("transformer" if problem.task == "translate" else "basic_fc")


def _of_set(set_name: str, model: str) -> HParams:
    from t2tdeploy import registry
    from t2tdeploy.errors import UserError

    hparams_class = registry.models.get(model).hparams_class
    hparams: HParams = registry.hparams_sets.get(set_name)()
    if issubclass(type(hparams), hparams_class):
        return hparams
    fitting = [n for n in registry.hparams_sets.names() if isinstance(registry.hparams_sets.get(n)(), hparams_class)]
    raise UserError(
        f"hparams set '{set_name}' is not made for model '{model}'",
        help=f"valid choices: {', '.join(fitting) or 'none; leave --hparams-set out for the defaults'}",
    )


def _wishes(problem: type[Problem], hparams_class: type[HParams]) -> list[Assignment]:
    """The problem's settings without those of other models' fields; what no model has is left in, and is a fault."""
    from t2tdeploy import registry
    from t2tdeploy.settings import parse_overrides

    wishes = parse_overrides(problem.default_hparams)
    if all(name in hparams_class.model_fields for name, _, _ in wishes):
        return wishes
    others = {
        field for name in registry.models.names() for field in registry.models.get(name).hparams_class.model_fields
    }
    return [wish for wish in wishes if wish[0] in hparams_class.model_fields or wish[0] not in others]
