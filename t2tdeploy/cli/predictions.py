"""What `evaluate` says of predicted classes and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2tdeploy.cli.console import print_lines, print_result, print_table
from t2tdeploy.errors import UserError

if TYPE_CHECKING:
    from t2tdeploy.training.predictions import PredictionReport

_MOST_CLASSES = 100  # in a table; JSON has all


def refuse_options_of_translations(task: str, given: Mapping[str, Any]) -> None:
    """Checks that no option is given that only a search can follow.

    Raises:
        UserError: one is.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if names:
        raise UserError(
            f"{', '.join(names)}: for translations only, and the model of this run is one to {task}",
            help="leave them out",
        )


def print_predictions(report: PredictionReport, checkpoint: str, *, as_json: bool) -> None:
    """The scores, and below them those of each class."""
    from dataclasses import asdict

    from t2tdeploy.problems.class_metrics import ClassificationScores

    head = {"split": report.split, "checkpoint": checkpoint, "examples": len(report.labels)}
    if not isinstance(report.scores, ClassificationScores):
        print_result({**head, **report.values}, as_json=as_json)
        return
    by_class = {name: asdict(scores) for name, scores in report.scores.by_class.items()}
    print_result({**head, **report.values, **({"by_class": by_class} if as_json else {})}, as_json=as_json)
    if as_json:
        return
    print()
    shown = list(by_class.items())[:_MOST_CLASSES]
    columns = list(shown[0][1])
    print_table(["class", *columns], [[name, *(scores[column] for column in columns)] for name, scores in shown])
    if len(by_class) > len(shown):
        print_lines([f"{len(by_class) - len(shown)} more classes: --json has them all"])


def write_pictures(report: PredictionReport, folder: Path) -> None:
    """FOLDER/NAME-SPLIT.png for each picture of the report."""
    from t2tdeploy.files import atomic_file
    from t2tdeploy.training.class_pictures import pictures

    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(report).items():
        with atomic_file(folder / f"{name}-{report.split}.png") as file:
            picture.savefig(file, format="png", dpi=110)
