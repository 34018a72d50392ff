"""The server runs the variant it is told to run."""

from pathlib import Path

import pytest

from t2tdeploy.bundle import write_bundle
from t2tdeploy.errors import OperationalError
from t2tdeploy.progress import SilentReporter
from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.client import Client
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.server import serve
from tests.serving.running import running
from tests.serving.toy_bundle import toy_files, toy_graph, toy_manifest


def test_the_chosen_variant_answers(tmp_path: Path) -> None:
    """The default one fails on any text; the other does not."""
    manifest = toy_manifest()
    good = manifest.variants["cpu-float32"].model_copy(update={"file": "good.onnx"})
    manifest = manifest.model_copy(update={"variants": {**manifest.variants, "cpu-int8": good}})
    bad = toy_graph(0, known_ids=4).SerializeToString()
    files = {**toy_files(), "good.onnx": toy_files()["model.onnx"], "model.onnx": bad}
    bundle = write_bundle(tmp_path / "bundle", manifest, files)
    with running(bundle, variant="cpu-int8") as server, Client(f"localhost:{server.port}") as client:
        assert client.translate(["A house."])[0][0].text == "A house."


def test_a_variant_for_another_machine_is_refused(tmp_path: Path) -> None:
    manifest = toy_manifest()
    cuda = manifest.variants["cpu-float32"].model_copy(update={"target": "cuda"})
    manifest = manifest.model_copy(update={"variants": {**manifest.variants, "cuda-fp16": cuda}})
    write_bundle(tmp_path / "bundle", manifest, toy_files())
    with pytest.raises(OperationalError, match="is made for cuda"):
        serve(BundleFolders([tmp_path / "bundle"]), ServerOptions(variant="cuda-fp16"), SilentReporter())
