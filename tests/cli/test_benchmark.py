"""`t2tdeploy benchmark` as it is typed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from t2tdeploy.cli import corpora
from t2tdeploy.cli.benchmark import benchmark
from t2tdeploy.errors import InputError
from tests.serving.toy_classifier import write_table_classifier


class Table:
    """Data of a table, which has no feature 'inputs'."""

    record = SimpleNamespace(splits=("train", "dev"))

    def split(self, name: str) -> Table:
        return self

    def texts(self, feature: str) -> list[str]:
        raise KeyError(feature)


def test_a_bundle_that_does_not_translate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_table_classifier(tmp_path / "table")
    monkeypatch.setattr(corpora, "data_of", lambda bundle: Table())
    with pytest.raises(InputError, match=r"only a bundle that translates can do this; the task of .* is 'classify'"):
        benchmark.main(["--bundle", str(bundle.directory)], standalone_mode=False)
