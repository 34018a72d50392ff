"""Whether a run or a bundle is one of this Estimator; the examples that a run keeps to check its bundle on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError, RunConflictError
from t2tdeploy.features import FeatureSpec
from t2tdeploy.files import atomic_file
from t2tdeploy.problems.in_memory import TARGETS, InMemoryDataset
from t2tdeploy.problems.problem import ESTIMATOR
from t2tdeploy.training.run_directory import RunDirectory

EXAMPLES = "examples.npz"
_KEPT_EXAMPLES = 32


def keep_examples(directory: Path, dataset: InMemoryDataset) -> None:
    """Some training examples, spread over all of them, for the parity check of an export."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, _KEPT_EXAMPLES).astype(np.int64))
    arrays: dict[str, Any] = {f"feature_{i}": values for i, values in enumerate(dataset.batch(rows).values())}
    with atomic_file(directory / EXAMPLES) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_examples(run: RunDirectory) -> dict[str, Any]:
    """What `keep_examples` kept: feature -> array as features.py says.

    Raises:
        InputError: it has kept nothing.
    """
    try:
        with np.load(run.path / EXAMPLES, allow_pickle=False) as file:
            return {name: file[f"feature_{i}"] for i, name in enumerate(run.features)}
    except FileNotFoundError:
        raise InputError(f"{run.path} has no {EXAMPLES} to check an export on", help="train a further step") from None


def require_own_run(run: RunDirectory, model: str) -> None:
    """Checks that a run is one of an Estimator and of `model`, before its features are taken for those of this one.

    Raises:
        RunConflictError: it is not.
    """
    pairs: dict[str, tuple[object, object]] = {
        "problem": (run.record.problem, ESTIMATOR),
        "model": (run.record.model, model),
    }
    if differences := {name: (recorded, asked) for name, (recorded, asked) in pairs.items() if recorded != asked}:
        raise RunConflictError(run.path, differences, help="give this Estimator another model_dir")


def require_own(bundle: Bundle, features: Mapping[str, FeatureSpec]) -> None:
    """Checks that a bundle takes what these features describe, fitted alike, and answers with the same classes.

    Raises:
        InputError: it does not; the message shows the first difference.
    """
    from t2tdeploy.export.optimize_classifier import recorded_features

    if difference := _difference(recorded_features(bundle), features):
        raise InputError(
            f"{bundle.directory} is no bundle of this Estimator: {difference}",
            path=bundle.directory,
            help="give what its export_bundle wrote, or make the Estimator with the model_dir that the bundle is of",
        )


def _difference(found: Mapping[str, FeatureSpec], own: Mapping[str, FeatureSpec]) -> str | None:
    """How the features of a bundle differ from those of a run, in words; None: they do not."""
    if found == own:
        return None
    if found.keys() != own.keys():
        return f"its features are {_listed(found)} instead of {_listed(own)}"
    if found[TARGETS].classes != own[TARGETS].classes:
        return f"its classes are {_listed(found[TARGETS].classes)} instead of {_listed(own[TARGETS].classes)}"
    name = next(name for name in own if found[name] != own[name])
    return f"feature '{name}' is declared otherwise, or was fitted on other examples"


def _listed(names: Iterable[str]) -> str:
    return f"{', '.join(name for name in names if name != TARGETS) or 'none':.200}"
