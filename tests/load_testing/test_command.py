"""`t2tdeploy load-test` as a user runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2tdeploy.cli.main import main
from t2tdeploy.load_testing.histogram import Histogram
from t2tdeploy.serving.server import Server
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

SHORT = ("--duration", "0.3", "--warm-up", "0.1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy"), max_sentences_per_request=8) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2tdeploy", "load-test", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        return int(str(exit.value.code)), captured.out, captured.err

    return call


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def test_a_sweep_says_what_was_measured(server: Server, run, tmp_path: Path) -> None:
    (tmp_path / "in.en").write_text("A house.\nTwo dogs.\n\n")
    before = server.answers["OK"]
    status, out, _ = run(
        "--server", address(server), "--input", tmp_path / "in.en", "--rate", "50,100", *SHORT, "--json",
        "--output", tmp_path / "load.json", "--plot", tmp_path / "load.png",
    )  # fmt: skip
    report = json.loads(out.splitlines()[-1])
    assert status == 0
    assert report == json.loads((tmp_path / "load.json").read_text())
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    assert (report["model"], report["sentences"]) == ("toy", 2)
    assert [one["rate"] for one in report["measurements"]] == [50, 100]
    for one in report["measurements"]:
        assert one["statuses"] == {"OK": one["requests"]} == {"OK": one["good"]}
        assert one["requests"] > 0
        assert Histogram.from_record(one["histogram"]).count == one["requests"]
        assert one["latency"]["p50_ms"] <= one["latency"]["max_ms"]
    sent = sum(one["requests"] + one["warm_up_requests"] for one in report["measurements"])
    assert server.answers["OK"] - before == sent + 1  # the request that was tried out


def test_a_link_stays_and_its_target_is_written(server: Server, run, tmp_path: Path) -> None:
    for name in ("load.json", "load.png"):
        (tmp_path / name).symlink_to(f"target-{name}")
    words = ("--output", tmp_path / "load.json", "--plot", tmp_path / "load.png")
    assert run("--server", address(server), "Hello.", "--concurrency", "1", "--requests", 2, *words)[0] == 0
    for name in ("load.json", "load.png"):
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / f"target-{name}").stat().st_size > 0


def test_the_table_is_for_people(server: Server, run) -> None:
    status, out, _ = run("--server", address(server), "Hello.", "--concurrency", "2", "--requests", 5, "--warm-up", 0)
    assert status == 0
    header, row = out.splitlines()[:2]
    assert header.split()[0] == "load"
    assert row.startswith("2 callers")
    assert row.endswith(" 0")
    assert "in time: within 10 s" in out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--server", "127.0.0.1:1", "a"], 1, "help: is the server running at 127.0.0.1:1? t2tdeploy serve starts one"),
        (["a"], 2, "Missing option '--server'"),
        (["--server", "HERE"], 2, "sentences or --input: name a file"),
        (["--server", "HERE", "--input", "no.en"], 2, "no file no.en"),
        (["--server", "HERE", "a", "--rate", "9", "--concurrency", "2"], 2, "choose one"),
        (["--server", "HERE", "a", "--rate", "fast"], 2, "'fast' is no list of numbers above 0"),
        (["--server", "HERE", "a", "--concurrency", "1.5"], 2, "'1.5' is no list of whole numbers"),
        (["--server", "HERE", "a", "--model", "tay"], 2, "did you mean 'toy'?"),
        (["--server", "HERE", "a", "--sentences-per-request", "9"], 2, "sources: 9 in one request, the server takes 8"),
        (["--server", "HERE", "x" * 300], 2, "sources[0]: 301 tokens, the model takes 200"),
        (["--server", "HERE", "a", "--plot", "a.gif"], 2, "a.gif is no picture"),
    ],
)
def test_mistakes_end_in_a_sentence(server: Server, run, words: list[str], status: int, said: str) -> None:
    found, _, errors = run(*(address(server) if word == "HERE" else word for word in words))
    assert said in errors
    assert found == status
    assert "Traceback" not in errors


def test_a_server_with_tokens_takes_a_caller_with_one(run, tmp_path: Path) -> None:
    token = "a-token-that-is-long-enough-1234567890"
    for name, line in (("server.tokens", f"load:use:{token}"), ("client.token", token)):
        (tmp_path / name).write_text(f"{line}\n")
        (tmp_path / name).chmod(0o600)
    bundle = write_toy_bundle(tmp_path / "toy")
    with running(bundle, token_file=tmp_path / "server.tokens") as server:
        words = ("--server", address(server), "A house.", "--requests", "5", "--concurrency", "1", "--warm-up", "0")
        status, out, _ = run(*words, "--token-file", tmp_path / "client.token", "--json")
        assert status == 0
        assert json.loads(out.splitlines()[-1])["measurements"][0]["statuses"] == {"OK": 5}
        status, _, error = run(*words)
        assert (status, "UNAUTHENTICATED" in error) == (1, True)
