"""A served model's session is set as the server was told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.runtime import available_cpus
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.served_model import load_model
from t2tdeploy.serving.work import TranslationWork
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_table_classifier


@pytest.mark.parametrize("write", [write_toy_bundle, write_table_classifier])
@pytest.mark.parametrize("spin_us", [0, 7])
def test_its_threads_wait_as_the_server_was_told(tmp_path: Path, write: Callable[[Path], Bundle], spin_us: int) -> None:
    answerer = load_model(write(tmp_path / "bundle"), ServerOptions(threads=2, spin_us=spin_us)).answerer
    options = answerer.session._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == ("1" if spin_us else "0")
    if spin_us:
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "7"


def test_a_model_that_translates_runs_two_batches_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone has all CPUs, two share them; who sets threads gets one session with these."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    monkeypatch.setattr("t2tdeploy.serving.served_model.available_cpus", lambda: 6)
    monkeypatch.setattr("t2tdeploy.serving.options.available_cpus", lambda: 6)
    found = {}
    for name, options in {"": {}, "one": {"workers": 1}, "three": {"workers": 3}, "set": {"threads": 2}}.items():
        loaded = load_model(bundle, ServerOptions(**options))
        assert isinstance(loaded.work, TranslationWork)
        found[name] = loaded.workers, loaded.work.widens, loaded.work._beside.session.threads
    cpus = available_cpus()
    assert found == {"": (2, True, 5), "one": (1, False, cpus), "three": (3, True, 4), "set": (1, False, 2)}


def test_on_one_cpu_one_batch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2tdeploy.serving.options.available_cpus", lambda: 1)
    loaded = load_model(write_toy_bundle(tmp_path / "bundle"), ServerOptions())
    assert (loaded.workers, loaded.work.widens) == (1, False)


def test_a_classifier_runs_as_many_batches_as_it_is_told(tmp_path: Path) -> None:
    bundle = write_table_classifier(tmp_path / "bundle")
    assert [load_model(bundle, ServerOptions(workers=workers)).workers for workers in (None, 3)] == [1, 3]
