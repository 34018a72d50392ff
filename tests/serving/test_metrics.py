"""Metrics as Prometheus reads them from a running server; the dashboard and the alerts only ask for those there are."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import OperationalError
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.serving.client import Client, ClientOptions
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from tests.policy.source import ROOT
from tests.serving.repositories import put
from tests.serving.running import running
from tests.serving.toy_bundle import ENDLESS_ALPHA, write_toy_bundle

DASHBOARD = json.loads((ROOT / "deploy/grafana/t2tdeploy.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
BY_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus adds, and the one of every histogram."""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def read(port: int | None, accept: str = "application/openmetrics-text") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def told(bundle: Bundle) -> Iterator[tuple[Samples, str]]:
    """After two answers, a refusal, an unknown method and a passed deadline."""
    with running(bundle, metrics_port=0) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = TranslationServiceStub(channel)
        for sources in (["a"], ["bb", "cccc"]):
            stub.Translate(pb.TranslateRequest(sources=sources), timeout=10)
        endless = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
        for request, timeout in ((pb.TranslateRequest(), 10), (endless, 0.3)):
            with pytest.raises(grpc.RpcError):
                stub.Translate(request, timeout=timeout)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/made.Up/Name")(b"", timeout=10)
        stub.Translate(pb.TranslateRequest(sources=["a"]), timeout=20)  # the worker is free again
        text = read(server.operations.metrics_port)
        yield samples(text), read(server.operations.metrics_port, "text/plain")


def value(told: tuple[Samples, str], name: str, **labels: str) -> float:
    return told[0][name, frozenset(labels.items())]


def test_calls_are_counted_by_method_status_and_model(told: tuple[Samples, str]) -> None:
    requests = "t2tdeploy_requests_total"
    assert value(told, requests, method="Translate", status="OK", model="toy") == 3
    assert value(told, requests, method="Translate", status="INVALID_ARGUMENT", model="toy") == 1
    assert value(told, requests, method="Translate", status="DEADLINE_EXCEEDED", model="toy") == 1
    assert value(told, requests, method="unknown", status="UNIMPLEMENTED", model="") == 1
    assert value(told, "t2tdeploy_rejects_total", reason="invalid", model="toy") == 1
    assert value(told, "t2tdeploy_rejects_total", reason="deadline", model="toy") == 1
    assert "Name" not in told[1]


def test_tokens_batches_and_times_add_up(told: tuple[Samples, str]) -> None:
    of = {"model": "toy", "version": "1"}
    assert value(told, "t2tdeploy_sentences_total", **of) == 4
    assert value(told, "t2tdeploy_source_tokens_total", **of) == 2 + 3 + 5 + 2
    assert value(told, "t2tdeploy_target_tokens_total", **of) == 2 + 3 + 5 + 2
    assert value(told, "t2tdeploy_batch_sentences_sum", **of) >= 4
    real = value(told, "t2tdeploy_batch_tokens_total", **of, kind="real")
    padding = value(told, "t2tdeploy_batch_tokens_total", **of, kind="padding")
    assert (real, padding) == (2 + 3 + 5 + 2 + 2, 2)  # of the endless one as well
    for name in ("request", "queue", "compute"):
        labels = {"model": "toy", **({"method": "Translate"} if name == "request" else {})}
        count = value(told, f"t2tdeploy_{name}_seconds_count", **labels)
        assert count == (5 if name == "request" else 3)  # one was not valid
        assert 0 <= value(told, f"t2tdeploy_{name}_seconds_sum", **labels) < 60


def test_what_is_now_is_told(told: tuple[Samples, str], bundle: Bundle) -> None:
    of = {"model": "toy", "version": "1"}
    assert value(told, "t2tdeploy_ready") == 1
    assert value(told, "t2tdeploy_model_info", **of, content=bundle.version, variant="cpu-float32") == 1
    for name in ("queue_sentences", "queue_tokens", "running_batches"):
        assert value(told, f"t2tdeploy_{name}", **of) == 0
    assert value(told, "t2tdeploy_workers", **of) == 1
    assert value(told, "t2tdeploy_model_loads_total", model="toy") == 1
    assert value(told, "t2tdeploy_model_load_failures_total", model="toy") == 0  # else the first would be no increase
    assert value(told, "t2tdeploy_model_versions_not_loaded", model="toy") == 0
    assert value(told, "process_resident_memory_bytes") > 1e6


def test_a_waiting_request_is_seen_while_it_waits(bundle: Bundle) -> None:
    with running(bundle, metrics_port=0) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = TranslationServiceStub(channel)
        endless = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
        calls = [stub.Translate.future(endless, timeout=60) for _ in range(3)]
        of = frozenset({"model": "toy", "version": "1"}.items())
        for _ in range(500):
            now = samples(read(server.operations.metrics_port))
            state = [now[f"t2tdeploy_{name}", of] for name in ("running_batches", "queue_sentences", "queue_tokens")]
            if state == [1, 2, 4]:
                break
        assert state == [1, 2, 4]
        for call in calls:
            call.cancel()


def test_a_model_that_never_could_be_loaded_is_told(bundle: Bundle, tmp_path: Path) -> None:
    put(bundle.directory, tmp_path / "good" / "1")
    for version in ("good/2", "bad/1"):
        put(bundle.directory, tmp_path / version)
        (tmp_path / version / "manifest.json").write_text("{")
    with running(RepositoryFolder(tmp_path), metrics_port=0) as server:
        now = samples(read(server.operations.metrics_port))
    counts = {dict(labels)["model"]: number for (name, labels), number in now.items() if name.endswith("_not_loaded")}
    assert counts == {"good": 1, "bad": 1}


def test_versions_that_left_keep_their_series_for_a_while(bundle: Bundle, tmp_path: Path) -> None:
    def versions(server: Server) -> set[str]:
        now = samples(read(server.operations.metrics_port))
        return {dict(labels)["version"] for name, labels in now if name == "t2tdeploy_source_tokens_total"}

    put(bundle.directory, tmp_path / "toy" / "1")
    with running(RepositoryFolder(tmp_path), metrics_port=0, poll_seconds=0.05) as server:
        target = f"127.0.0.1:{server.port}"
        with Client(target, ClientOptions(model="toy")) as client:
            client.translate(["a"])
            for number in range(2, 6):
                put(bundle.directory, tmp_path / "toy" / str(number))
                while server.repository.find("toy").number != number:
                    time.sleep(0.02)
                client.translate(["a"])
        expected, deadline = {"3", "4", "5"}, time.monotonic() + 20
        while versions(server) != expected and time.monotonic() < deadline:
            time.sleep(0.02)  # until the last has left
        assert versions(server) == expected


def test_a_full_queue_is_that_of_a_model(bundle: Bundle) -> None:
    limits = {"max_queue_sentences": 1, "max_sentences_per_request": 1, "workers": 1}
    endless = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
    with (
        running(bundle, metrics_port=0, **limits) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        calls = [TranslationServiceStub(channel).Translate.future(endless, timeout=20) for _ in range(4)]
        while not server.answers["RESOURCE_EXHAUSTED"]:
            time.sleep(0.01)
        now = samples(read(server.operations.metrics_port))
        for call in calls:
            call.cancel()
    assert ("t2tdeploy_rejects_total", frozenset({"reason": "queue_full", "model": "toy"}.items())) in now


def test_the_alert_of_models_asks_what_is_now() -> None:
    """A counter that begins at 1 has no increase."""
    (rule,) = [rule for rule in RULES if rule["alert"] == "T2TDeployModelNotLoaded"]
    assert rule["expr"] == "max by (job, model) (max_over_time(t2tdeploy_model_versions_not_loaded[5m])) > 0"
    assert rule["for"] == "5m"


def test_a_port_that_cannot_be_had_is_told(bundle: Bundle) -> None:
    with running(bundle, metrics_port=0) as server:
        taken = server.operations.metrics_port
        with pytest.raises(OperationalError, match=f"port {taken} for metrics"), running(bundle, metrics_port=taken):
            pass


def exposed(told: tuple[Samples, str]) -> dict[str, set[str]]:
    """Every name that a query may use, and all labels there are."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    names = {family.name + suffix for family in text_families(told[1]) for suffix in suffixes.get(family.type, ("",))}
    return {"names": names, "labels": {label for _, labels in told[0] for label, _ in labels}}


def queries() -> dict[str, str]:
    panels = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }
    variables = {
        f"variable {one['name']}": one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"
    }
    return panels | variables | {f"alert {rule['alert']}": rule["expr"] for rule in RULES}


@pytest.mark.parametrize("name", queries())
def test_queries_use_what_a_server_exposes(name: str, told: tuple[Samples, str]) -> None:
    query, there = queries()[name], exposed(told)
    used = set(re.findall(r"\b(?:t2tdeploy|process|python)_\w+", query))
    assert used
    assert used <= there["names"]
    groups = re.findall(r"\bby \(([^)]*)\)", query)
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
    labels = {label.strip() for group in groups for label in group.split(",")} | set(matched)
    assert labels <= there["labels"] | BY_PROMETHEUS
    for label in re.findall(r"\{\{ ?(\w+) ?\}\}", query):
        assert label in there["labels"] | BY_PROMETHEUS


def test_every_metric_of_ours_is_in_the_documentation(told: tuple[Samples, str]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    ours = {name for name in exposed(told)["names"] if name.startswith("t2tdeploy_")}
    written = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in ours if not name.endswith("_created")}
    assert written == set(re.findall(r"`(t2tdeploy_\w+)`", page))


def test_the_dashboard_is_one() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert max(x for x, _ in cells) < 24
    assert len(set(cells)) == len(cells)  # none covers another
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
            assert used <= variables | {"__rate_interval"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means(rule: dict[str, object]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[A-Z]\w+", str(rule["alert"]))
    assert re.fullmatch(r"\d+[smh]", str(rule.get("for", "1m")))
    assert isinstance(rule["labels"], dict)
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert isinstance(rule["annotations"], dict)
    assert set(rule["annotations"]) == {"summary", "description"}
