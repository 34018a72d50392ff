"""The manifests that scale with the queue: their metric is one of the server's, at the port that Prometheus reads."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from t2tdeploy.serving.configuration import from_environment
from t2tdeploy.serving.options import ServerOptions
from tests.deploy.manifests import KUBERNETES, documents, resources
from tests.policy.source import ROOT
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

FOUND = resources("autoscaled")
(METRIC,) = FOUND["HorizontalPodAutoscaler"]["spec"]["metrics"]
PATCHES: list[dict[str, Any]] = [
    patch
    for name in ("metrics-port.yaml", "metrics-policy.yaml")
    for patch in yaml.safe_load((KUBERNETES / "autoscaled" / name).read_text(encoding="utf-8"))
]


def added(path: str) -> dict[str, Any]:
    """What the patches add at `path`."""
    (value,) = [patch["value"] for patch in PATCHES if patch["op"] == "add" and patch["path"].endswith(path)]
    return dict(value)


def test_the_metrics_port_is_one_everywhere() -> None:
    variable, port = added("/env/-"), added("/ports/-")
    options = ServerOptions.create(dict(from_environment({variable["name"]: variable["value"]}).values))
    assert options.metrics_port == port["containerPort"] != options.port
    (endpoint,) = FOUND["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == port["name"]
    assert added("/ingress/-")["ports"] == [{"port": port["name"]}]


def test_a_server_tells_the_metric(tmp_path: Path) -> None:
    name = METRIC["pods"]["metric"]["name"]
    with running(write_toy_bundle(tmp_path / "toy"), metrics_port=0) as server:
        address = f"http://127.0.0.1:{server.operations.metrics_port}/metrics"
        text = urllib.request.urlopen(address, timeout=5).read().decode()
    assert f"\n# TYPE {name} gauge\n" in text
    (rule,) = documents(KUBERNETES / "adapter-rule.yaml")[0]["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")


def test_a_server_more_when_more_than_a_batch_waits() -> None:
    assert METRIC["pods"]["target"]["averageValue"] == str(ServerOptions().max_batch_size)
    guide = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert re.findall(r"more than a full batch \((\d+)\)", guide) == [str(ServerOptions().max_batch_size)]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_autoscaler_scales_the_deployment_and_nobody_else() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / "autoscaled"], capture_output=True, text=True, check=True
    )
    found = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    target = FOUND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = found[target["kind"]]
    assert (target["apiVersion"], target["name"]) == (deployment["apiVersion"], deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
    monitored = FOUND["PodMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
