"""What an Estimator's model is: its class, its hyperparameters, and the file that defines it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2tdeploy import registry
from t2tdeploy.errors import UserError
from t2tdeploy.files import atomic_file
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.models.model_fn import FunctionModel, definition, function_model

SOURCE = "model_source.py"


def model_class(model: Any) -> type[Model]:
    """The class of a model that is given as one, by name, or as a model function.

    Raises:
        UserError: it is nothing of these.
        UnknownNameError: there is no model of that name.
    """
    if isinstance(model, str):
        found: type[Model] = registry.models.get(model)
        return found
    if isinstance(model, type) and issubclass(model, Model):
        return model
    if callable(model) and not isinstance(model, type):
        return function_model(model)
    raise UserError(
        f"{model!r:.80} is no model",
        help="give a subclass of t2tdeploy.models.model.Model, the name of a model, or a function (features, labels, "
        "mode, params) -> EstimatorSpec",
    )


def hyperparameters(
    model: type[Model], hparams: HParams | Mapping[str, Any] | str | None, params: Mapping[str, Any] | None
) -> HParams:
    """Those of a set or the model's defaults, with what differs from them; `params` are a model function's.

    Raises:
        UserError: one is not valid, or they are of another model.
        UnknownNameError: there is no set of that name.
    """
    if isinstance(hparams, HParams):
        chosen = hparams
    else:
        name = hparams if isinstance(hparams, str) else model.default_hparams_set
        chosen = registry.hparams_sets.get(name)() if name else model.hparams_class.create({})
    if not isinstance(chosen, model.hparams_class):
        raise UserError(f"hyperparameters of {type(chosen).__name__} are not made for model {model.__name__}")
    changes = dict(hparams) if isinstance(hparams, Mapping) else {}
    if params is not None:
        if not issubclass(model, FunctionModel):
            raise UserError("params are for model functions", help="give a model's hyperparameters as hparams={…}")
        changes["params"] = dict(params)
    return chosen.replace(**changes) if changes else chosen


def keep_source(directory: Path, code: Any) -> None:
    """A copy of the file that defines the model, or of the model alone where there is no such file."""
    if isinstance(code, str):
        return
    code = definition(code)
    file = inspect.getsourcefile(code) if inspect.getmodule(code) is not None else None
    try:
        text = Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else inspect.getsource(code)
    except (OSError, TypeError):
        return  # typed into an interpreter that keeps no source
    with atomic_file(directory / SOURCE) as temporary:
        temporary.write_text(text, encoding="utf-8")
