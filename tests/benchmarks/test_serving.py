"""Short forms of the gates of benchmarks/serving.py, and that its comparison compares like with like."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import serving_gates
import serving_hostile
from serving_compare import HERE, Cell, ratios, slope, summary
from serving_fuzz import cases, own_methods
from serving_gates import Gates
from serving_process import ServerProcess, serve_command

from t2tdeploy.serving.client import Client
from t2tdeploy.translator import Translator
from tests.serving.toy_bundle import write_toy_bundle

SOURCES = ["A dog.", "Zwei Hündinnen im Schnee.", "x" * 60]


def gates(folder: Path, **bundle: int) -> Gates:
    directory = write_toy_bundle(folder / "toy", **bundle).directory
    return Gates(directory, SOURCES, 1, seconds=1.0, deadline=1.0, folder=folder, say=lambda text: None)


def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    # A busy machine may need a second for the first answer, and the signal comes after half of the time.
    found = serving_gates.sigterm(replace(gates(tmp_path, steps=5), seconds=4.0))
    assert found["passed"], found
    assert found["answered"] > 0
    assert found["refused"] > 0


def test_new_versions_under_load_are_no_errors(tmp_path: Path) -> None:
    found = serving_gates.reload(gates(tmp_path, steps=2), times=1)
    assert found["passed"], found
    assert found["requests"] > 0


def test_killed_clients_leave_nothing_behind(tmp_path: Path) -> None:
    found = serving_hostile.kills(gates(tmp_path, steps=100), count=5)  # a request takes longer than a victim lives
    assert found["passed"], found
    assert found["answers"]["CANCELLED"] == 5
    assert found["answered_before"] == 0


def test_limits_hold(tmp_path: Path) -> None:
    found = serving_hostile.limits(gates(tmp_path), idle=20)
    assert found["passed"], found


def test_malformed_requests_get_statuses_of_the_table(tmp_path: Path) -> None:
    found = serving_hostile.fuzz(gates(tmp_path), count=200)
    assert found["passed"], found
    statuses = next(iter(found["services"].values()))["statuses"]
    assert statuses["INVALID_ARGUMENT"] > 50
    assert sum(statuses.values()) == 200


def test_the_fuzz_gate_sees_faults_of_the_server(tmp_path: Path) -> None:
    found = serving_hostile.fuzz(gates(tmp_path, known_ids=4), count=60)  # any real source makes the graph fail
    assert not found["passed"]
    assert "INTERNAL" in found["not_of_the_table"]


def test_fuzz_is_the_same_every_time_and_mostly_damaged() -> None:
    methods = own_methods()
    one, other = cases(methods, 7), cases(methods, 7)
    drawn = [one() for _ in range(300)]
    assert drawn == [other() for _ in range(300)]
    valid = {content for method in methods for content in method.seeds}
    assert sum(content in valid for _, content in drawn) < 150


def test_all_contestants_answer_as_the_translator_does(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    expected = [one.text for one, *_ in Translator(bundle, threads=1).translate(SOURCES)]
    naive = [HERE / "serving_naive.py", bundle.directory, 1, 2]
    other = [HERE / "serving_litserve.py", bundle.directory, 1, 2, 0.001]
    for command in (naive, serve_command(bundle.directory, threads=1)):
        with ServerProcess(command) as server, Client(server.address) as client:
            assert [one.text for one, *_ in client.translate(SOURCES)] == expected
    with ServerProcess(other) as server:
        asyncio.run(wait_until_open(server.port))
        assert [ask_http(server.address, source)["text"] for source in SOURCES] == expected


async def wait_until_open(port: int) -> None:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


def ask_http(address: str, source: str) -> dict[str, str]:
    content = json.dumps({"source": source}).encode()
    request = urllib.request.Request(f"http://{address}/predict", content, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, str] = json.load(answer)
    return found


def test_a_rate_does_not_depend_on_where_bursts_fall() -> None:
    """Batches of 16 every half second: 32 per second, whatever part of it is seen."""
    moments = [burst / 2 + place / 1000 for burst in range(20) for place in range(16)]
    for first in (0, 5, 15):
        assert slope(moments[first:]) == pytest.approx(32, rel=0.05)
    with pytest.raises(RuntimeError, match="too few"):
        slope([1.0])


def cell(*rates: float, p50: float = 1.0) -> Cell:
    return Cell(rates=list(rates), p50_ms=[p50] * len(rates))


def test_ratios_compare_within_a_round() -> None:
    cells = {
        "t2tdeploy": {1: cell(1, 1, p50=12.5), 64: cell(10, 100, 30)},
        "bare": {1: cell(1, 1, p50=12), 64: cell(10, 200, 40)},
        "grpcio alone": {1: cell(1), 64: cell(5, 20, 10)},
        "litserve": {1: cell(1), 64: cell(10, 50, 10)},
        "litserve, a worker per CPU": {1: cell(1), 64: cell(5, 80, 20)},
    }
    assert ratios(cells, 64) == {
        "bare": 0.75, "grpcio alone": 3, "litserve": 2, "litserve, a worker per CPU": 1.5
    }  # fmt: skip
    assert summary(cells) == {
        "throughput_over_bare": 0.75,
        "throughput_over_naive": 3,
        "throughput_over_other": 1.5,
        "p50_minus_bare_ms": 0.5,
    }
