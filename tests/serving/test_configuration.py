from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, model_validator

from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.serving.configuration import Layer, configure, from_environment, from_file, from_flags
from t2tdeploy.settings import Settings


class Options(Settings):
    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535)
    delay_ms: float = 0.0
    threads: int | None = None
    quiet: bool = False
    names: tuple[str, ...] = ()
    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def _ordered(self) -> "Options":
        if self.low > self.high:
            raise ValueError("low is more than high")
        return self


def file(path: Path, text: str) -> Layer:
    path.write_text(text)
    return from_file(path)


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path) -> None:
    layers = [
        file(tmp_path / "serve.toml", 'host = "file"\nport = 1\ndelay_ms = 1\nquiet = true\nnames = ["a", "b"]'),
        from_environment({"T2TDEPLOY_SERVE_PORT": "2", "T2TDEPLOY_SERVE_DELAY_MS": "2.5", "PORT": "9"}),
        from_flags({"delay_ms": 3.0, "host": None, "names": ()}),
    ]
    configured = configure(Options, layers)
    assert configured.settings == Options(host="file", port=2, delay_ms=3.0, quiet=True, names=("a", "b"))
    places = {name: layer.name_of(name) for name, layer in configured.sources.items()}
    assert places["host"] == f"{tmp_path}/serve.toml, host"
    assert places["port"] == "T2TDEPLOY_SERVE_PORT"
    assert places["delay_ms"] == "--delay-ms"
    assert "threads" not in places


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "80", {"port": 80}),
        ("QUIET", "true", {"quiet": True}),
        ("NAMES", "a, b", {"names": ("a", "b")}),
        ("THREADS", "none", {"threads": None}),
    ],
)
def test_variables_are_read_as_the_type_of_their_option(name: str, text: str, value: dict[str, Any]) -> None:
    assert configure(Options, [from_environment({f"T2TDEPLOY_SERVE_{name}": text})]).settings == Options(**value)


def test_none_takes_back_what_an_earlier_source_says(tmp_path: Path) -> None:
    layers = [file(tmp_path / "serve.toml", "threads = 4"), from_flags({"threads": "none"})]
    assert configure(Options, layers).settings.threads is None


def test_every_fault_of_every_source_is_told_at_once(tmp_path: Path) -> None:
    layers = [
        file(tmp_path / "serve.toml", 'port = 70000\nprot = 1\ndelay_ms = "soon"'),
        from_environment({"T2TDEPLOY_SERVE_THREADS": "many", "T2TDEPLOY_SERVE_HOTS": "x"}),
        from_flags({"port": -1}),
    ]
    with pytest.raises(SettingsError) as caught:
        configure(Options, layers)
    said = [str(fault) for fault in caught.value.faults]
    path = tmp_path / "serve.toml"
    assert any(one.startswith(f"{path}, port = 70000: ") for one in said)
    assert f"{path}, prot = 1: no such option (did you mean 'port'?)" in said
    assert any(one.startswith(f"{path}, delay_ms = 'soon': ") for one in said)
    assert any(one.startswith("T2TDEPLOY_SERVE_THREADS = 'many': ") for one in said)
    assert "T2TDEPLOY_SERVE_HOTS = 'x': no such option (did you mean 'T2TDEPLOY_SERVE_HOST'?)" in said
    assert any(one.startswith("--port = -1: ") for one in said)
    assert len(said) == 6


def test_options_that_do_not_go_together_are_found_across_sources(tmp_path: Path) -> None:
    layers = [file(tmp_path / "serve.toml", "low = 5"), from_environment({"T2TDEPLOY_SERVE_HIGH": "3"})]
    with pytest.raises(SettingsError, match="low is more than high") as caught:
        configure(Options, layers)
    assert f"({tmp_path}/serve.toml, low; T2TDEPLOY_SERVE_HIGH)" in str(caught.value)
    assert configure(Options, [*layers, from_flags({"high": 6})]).settings.high == 6


def test_variables_that_kubernetes_sets_are_explained() -> None:
    with pytest.raises(SettingsError) as caught:
        configure(Options, [from_environment({"T2TDEPLOY_SERVE_PORT": "tcp://10.0.0.1:50051"})])
    assert "enableServiceLinks: false" in (caught.value.help or "")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"port: 1", "is not TOML"), (b"host = \xff", "is not TOML"), (None, "cannot be read: No such file")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "serve.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        from_file(path)


def test_a_mark_of_windows_at_the_start_is_none_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_bytes(b"\xef\xbb\xbfport = 1\n")
    assert from_file(tmp_path / "serve.toml").values == {"port": 1}
    with pytest.raises(InputError) as caught:
        from_file(tmp_path / "serv.toml")
    assert caught.value.help == "did you mean 'serve.toml'?"
