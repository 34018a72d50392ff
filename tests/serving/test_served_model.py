"""A served model's session is set as the server was told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.served_model import load_answerer
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_table_classifier


@pytest.mark.parametrize("write", [write_toy_bundle, write_table_classifier])
@pytest.mark.parametrize("spin_us", [0, 7])
def test_its_threads_wait_as_the_server_was_told(tmp_path: Path, write: Callable[[Path], Bundle], spin_us: int) -> None:
    answerer = load_answerer(write(tmp_path / "bundle"), ServerOptions(threads=2, spin_us=spin_us))
    options = answerer.session._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == ("1" if spin_us else "0")
    if spin_us:
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "7"
