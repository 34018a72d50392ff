"""`t2tdeploy translate` as it is typed, with a bundle on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.cli.translate import translate
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def ask(*arguments: str | Path) -> None:
    translate.main([str(one) for one in arguments], standalone_mode=False)


@pytest.mark.parametrize("count", [1, 2])
def test_a_hypothesis_is_one_line_whatever_it_holds(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    ask("--bundle", bundle.directory, "--num-hypotheses", str(count), "two\nlines", "a\ttab")
    blocks = capsys.readouterr().out.split("\n\n")
    found = [[line.partition("\t")[2] for line in block.splitlines()] for block in blocks]
    assert found == [["two lines"] * count, ["a\ttab"] * count]


def test_json_has_no_ids_where_none_are_known(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """A server sends none."""
    asked = ("--num-hypotheses", "2", "--json", "ab")
    ask("--bundle", bundle.directory, *asked)
    (local,) = map(json.loads, capsys.readouterr().out.splitlines())
    with running(bundle) as server:
        ask("--server", f"127.0.0.1:{server.port}", *asked)
    (served,) = map(json.loads, capsys.readouterr().out.splitlines())
    ids = [one.pop("ids") for one in local["hypotheses"]]
    assert [len(one) for one in ids] == [one["tokens"] for one in local["hypotheses"]]
    assert served == local
