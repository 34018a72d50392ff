"""The Kubernetes manifests are valid, and agree with the server, the image and each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from t2tdeploy.serving.health import health_of
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.options import ServerOptions
from tests.deploy.manifests import KUBERNETES, documents, resources, serve_command
from tests.policy.source import ROOT
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

FOLDERS = sorted(path.parent.name for path in KUBERNETES.glob("*/kustomization.yaml"))
VERSIONS = ("1.28", "1.37")  # gRPC probes and unhealthyPodEvictionPolicy are on by default from 1.27
CUSTOM = {"PodMonitor"}  # of the Prometheus operator: not part of Kubernetes
BASE = resources("base")
POD: dict[str, Any] = BASE["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ARGUMENTS = serve_command(CONTAINER["args"])
OPTIONS = ServerOptions(
    **{name: ARGUMENTS[name] for name in ("host", "port", "poll_seconds") if ARGUMENTS[name] is not None}
).override(ARGUMENTS["overrides"])
PROBES = {name: CONTAINER[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}


def validate(manifest: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_are_valid(folder: str) -> None:
    found = resources(folder)
    assert found
    for manifest in found.values():
        if manifest["kind"] not in CUSTOM:
            validate(manifest)


def test_the_checker_finds_faults() -> None:
    broken = yaml.safe_load(yaml.safe_dump(BASE["Deployment"]))
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("folder", FOLDERS)
def test_what_kustomize_makes_of_them_is_valid(folder: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for manifest in yaml.safe_load_all(done.stdout):
        if manifest["kind"] not in CUSTOM:
            validate(manifest)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_named_by_its_kustomization(folder: str) -> None:
    (kustomization,) = documents(KUBERNETES / folder / "kustomization.yaml")
    named = {name for name in kustomization["resources"] if name.endswith(".yaml")}
    named |= {patch["path"] for patch in kustomization.get("patches", []) if "path" in patch}
    there = {path.name for path in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert there == named


def test_labels_find_the_pods() -> None:
    labels = POD["metadata"]["labels"].items()
    selectors = [
        BASE["Deployment"]["spec"]["selector"]["matchLabels"],
        BASE["Service"]["spec"]["selector"],
        BASE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        BASE["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in POD["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels


def test_ports_are_those_of_the_server() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports["grpc"] == OPTIONS.port == ServerOptions().port
    assert OPTIONS.host == "0.0.0.0"
    assert {probe["port"] for probe in PROBES.values()} == {OPTIONS.port}
    (port,) = BASE["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    assert port["port"] == OPTIONS.port
    assert BASE["Service"]["spec"]["clusterIP"] == "None"
    assert {rule["port"] for one in BASE["NetworkPolicy"]["spec"]["ingress"] for rule in one["ports"]} <= set(ports)


def test_a_server_answers_every_probe(tmp_path: Path) -> None:
    """The names that the probes ask for are known to a real server, and it serves under them."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with running(write_toy_bundle(tmp_path / "toy")) as server:
        assert health_of(f"127.0.0.1:{server.port}", timeout=5) == "SERVING"
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            for probe in PROBES.values():
                request = health_pb2.HealthCheckRequest(service=probe.get("service", ""))
                assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status == 1
    assert PROBES["readinessProbe"]["service"] == SERVICE


def test_pods_may_take_as_long_to_stop_as_the_server_takes() -> None:
    stopping = OPTIONS.lame_duck_seconds + OPTIONS.shutdown_grace_seconds
    assert OPTIONS.lame_duck_seconds > 0
    assert POD["spec"]["terminationGracePeriodSeconds"] >= stopping + 5


def test_the_container_is_the_image_of_the_dockerfile() -> None:
    """Its entry point gets the arguments; its user is the pod's, who may not write, and reads the models."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    user = POD["spec"]["securityContext"]["runAsUser"]
    assert f"USER {user}\n" in dockerfile
    assert re.search(rf"useradd .*--uid {user} ", dockerfile)
    assert "command" not in CONTAINER
    assert 'ENTRYPOINT ["t2tdeploy"]' in dockerfile
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert CONTAINER["securityContext"]["capabilities"]["drop"] == ["ALL"]
    (mount,) = CONTAINER["volumeMounts"]
    assert mount["readOnly"]
    assert mount["mountPath"] == str(ARGUMENTS["repository"])
    (volume,) = POD["spec"]["volumes"]
    assert volume["name"] == mount["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == BASE["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_models_threads_are_its_cpus() -> None:
    """The server counts the CPU quota; without one it would start as many threads as the node has CPUs."""
    assert ARGUMENTS["threads"] is None
    assert CONTAINER["resources"]["limits"]["cpu"] == CONTAINER["resources"]["requests"]["cpu"]
