"""Tables that come with scikit-learn: nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from t2tdeploy.columns.declare import Declaration, numeric
from t2tdeploy.problems.rows import Rows
from t2tdeploy.problems.stratified import StratifiedOptions, stratified
from t2tdeploy.problems.tabular import TabularProblem
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem


class _PackagedTable(TabularProblem):
    """Rows of one table, divided by scikit-learn's stratified split."""

    options_class = StratifiedOptions
    options: StratifiedOptions
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")

    def table(self) -> Rows:
        """All rows."""
        raise NotImplementedError

    def rows(self, split: str, source_dir: Path, reporter: Reporter) -> Rows:
        del source_dir, reporter  # nothing is read or fetched
        table = self.table()
        return table.take(stratified(table.columns[self.target], self.options)[split])


@register_problem
class Iris(_PackagedTable):
    """150 irises of three species, two lengths and two widths each (Fisher 1936), embedded."""

    target = "species"
    classes = ("setosa", "versicolor", "virginica")

    def columns(self, rows: Rows) -> list[Declaration]:
        return [numeric(name) for name in rows.columns if name != self.target]

    def table(self) -> Rows:
        data = _load("iris")
        measures = {
            name.removesuffix(" (cm)").replace(" ", "_"): data.data[:, place]
            for place, name in enumerate(data.feature_names)
        }
        return Rows({**measures, self.target: [self.classes[label] for label in data.target]}, "iris")


@register_problem
class Digits(_PackagedTable):
    """1797 handwritten digits as 64 grey levels each (Alpaydin and Kaynak 1998), embedded; `image_digits` as images."""

    target = "digit"
    classes = tuple("0123456789")

    def columns(self, rows: Rows) -> list[Declaration]:
        return [numeric("pixels", shape=(64,))]

    def table(self) -> Rows:
        data = _load("digits")
        return Rows({"pixels": data.data, self.target: [str(label) for label in data.target]}, "digits")


@lru_cache(maxsize=2)
def _load(name: str) -> Any:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")()
